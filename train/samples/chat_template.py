"""Which template a base is taught to chat with: its own, or the reference's plain-text tags."""

from __future__ import annotations

from tokenizers import Tokenizer

from toolchain.contracts.chat.format import ChatFormat, open_format
from toolchain.contracts.chat.template import ChatTemplate
from toolchain.contracts.chat.tokens import ControlTokens
from toolchain.contracts.errors import SettingsError
from train.bases.base import Base
from train.settings import ChatTemplateChoice

REFERENCE = """\
{%- set tags = {'system': '<|system|>', 'user': '<|prompter|>', 'assistant': '<|assistant|>'} -%}
{%- for message in messages -%}
    {{- '' if loop.first else ' ' }}{{ tags[message.role] ~ ' ' ~ message.content | trim ~ ' END' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- ' <|assistant|>' -}}{%- endif -%}
"""
"""DHS LLM Workshop, 2023: `<|prompter|> … <|endoftext|> <|assistant|> … <|endoftext|>`, its tags as plain text."""


def choose_format(base: Base, tokenizer: Tokenizer, choice: ChatTemplateChoice) -> tuple[str, ChatFormat]:
    """What the base is taught with, `base` or `reference`, and that format.

    `tokenizer` is the base's, opened for users' text. Raises SettingsError for a base without a template where its own
    is asked for, and ArtifactError for one that cannot be read.
    """
    own = open_format(base.folder, tokenizer) if choice != "reference" else None
    if own:
        return "base", own
    if choice == "base":
        raise SettingsError(f"{base.name} brings no chat template", "Use --chat-template reference.")
    source = REFERENCE.replace("END", base.spec.end_of_text)
    return "reference", ChatFormat(ChatTemplate(source, {}), ControlTokens(tokenizer))
