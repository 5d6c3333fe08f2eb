require("llm").setup({
  backend = "tgi",
  url = "http://127.0.0.1:8000/generate",
  disable_url_path_completion = true,
  model = "copilot",
  context_window = 1024,
  tokenizer = {
    path = "/home/ada/my code/.fimble/current/params/tokenizer.json",
  },
  tokens_to_clear = { "<|endoftext|>" },
  fim = {
    enabled = true,
    prefix = "<fim_prefix>",
    suffix = "<fim_suffix>",
    middle = "<fim_middle>",
  },
  request_body = {
    parameters = {
      max_new_tokens = 60,
      temperature = 0.2,
      do_sample = true,
      top_p = 0.95,
    },
  },
})
