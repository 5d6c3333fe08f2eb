let g:llama_config = get(g:, 'llama_config', {})
let g:llama_config.endpoint_fim = 'http://127.0.0.1:8000/infill'
let g:llama_config.n_prefix = 76
let g:llama_config.n_suffix = 25
let g:llama_config.n_predict = 60
let g:llama_config.t_max_prompt_ms = 10000
let g:llama_config.t_max_predict_ms = 5000
