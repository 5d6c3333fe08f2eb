"""Fill-in-the-middle: which tokens a model was trained with, and in which orders.

Two orders, both from Bavarian et al. 2022 (arXiv:2207.14255) as StarCoder was trained with them:

    PSM   <fim_prefix> prefix <fim_suffix> suffix <fim_middle> middle
    SPM   <fim_prefix> <fim_suffix> suffix <fim_middle> prefix middle      ("variant 2")

Token ids are resolved by name and never guessed: a tokenizer without one of the tokens is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from toolchain.contracts.errors import FimTokenError

Order = Literal["psm", "spm"]


@dataclass(frozen=True)
class FimSpec:
    """The FIM tokens of a model by name, and the orders it knows: none, and empty names, where it fills no middle."""

    prefix: str
    suffix: str
    middle: str
    pad: str | None
    end_of_text: str
    file_separator: str | None = None
    repository_name: str | None = None
    orders: tuple[Order, ...] = ("psm", "spm")

    def __post_init__(self) -> None:
        object.__setattr__(self, "orders", tuple(self.orders))

    @property
    def fills(self) -> bool:
        """Whether the model fills in the middle; one that only chats does not."""
        return bool(self.orders)

    @property
    def serving_order(self) -> Order:
        """SPM where the model knows it: there a keystroke only appends to the cached sequence."""
        return "spm" if "spm" in self.orders else "psm"

    @property
    def control_tokens(self) -> tuple[str, ...]:
        """Every token that must never reach the user's text and at which generation ends."""
        names = (
            self.end_of_text,
            self.prefix,
            self.suffix,
            self.middle,
            self.pad,
            self.file_separator,
            self.repository_name,
        )
        return tuple(name for name in names if name)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"orders": list(self.orders)}


STARCODER = FimSpec("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<fim_pad>", "<|endoftext|>")
STARCODER2 = FimSpec(
    "<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<fim_pad>", "<|endoftext|>", "<file_sep>", "<repo_name>"
)
QWEN_CODER = FimSpec(
    "<|fim_prefix|>",
    "<|fim_suffix|>",
    "<|fim_middle|>",
    "<|fim_pad|>",
    "<|endoftext|>",
    "<|file_sep|>",
    "<|repo_name|>",
    ("psm",),
)
KNOWN = (STARCODER2, QWEN_CODER, STARCODER)


NO_ID = -1


@dataclass(frozen=True)
class FimIds:
    """The token ids of a FimSpec in one tokenizer, NO_ID for a name that is empty."""

    prefix: int
    suffix: int
    middle: int
    end_of_text: int
    control: frozenset[int]
    file_separator: int | None = None

    def arrange(self, order: Order, prefix: Sequence[int], suffix: Sequence[int]) -> list[int]:
        """The prompt after which the middle follows."""
        if order == "psm":
            return [self.prefix, *prefix, self.suffix, *suffix, self.middle]
        return [self.prefix, self.suffix, *suffix, self.middle, *prefix]


def detect(
    token_to_id: Callable[[str], int | None], where: str = "this tokenizer", end_of_text: str | None = None
) -> FimSpec:
    """The known FIM specification whose tokens are all in the vocabulary (`token_to_id` gives None for unknown ones).

    The token for padding may be missing, and `end_of_text` stands for a family's own where that is missing. Raises
    FimTokenError, naming the tokens of the nearest specification that are missing.
    """
    specs = [_fitted(spec, token_to_id, end_of_text) for spec in KNOWN]
    missing = {spec: lacking(spec, token_to_id) for spec in specs}
    for spec, names in missing.items():
        if not names:
            return spec
    nearest = min(specs, key=lambda spec: (len(missing[spec]), len(spec.control_tokens)))
    raise lacks(where, missing[nearest])


def to_add(token_to_id: Callable[[str], int | None], end_of_text: str | None = None) -> FimSpec:
    """What a vocabulary without FIM tokens is to have: StarCoder's, and the end of text that it has already."""
    return _fitted(STARCODER, token_to_id, end_of_text)


def without(end_of_text: str) -> FimSpec:
    """What there is to know of a model that chats and fills no middle."""
    return FimSpec("", "", "", None, end_of_text, orders=())


def end_of_text(config: Mapping[str, Any], id_to_token: Callable[[int], str | None]) -> str | None:
    """The token at which a model ends by its `config.json`, by name; None where it names none."""
    number = config.get("eos_token_id")
    number = number[0] if isinstance(number, list) and number else number
    return id_to_token(number) if isinstance(number, int) and number >= 0 else None


def lacking(spec: FimSpec, token_to_id: Callable[[str], int | None]) -> tuple[str, ...]:
    """The control tokens of `spec` that are not in the vocabulary."""
    return tuple(name for name in spec.control_tokens if token_to_id(name) is None)


def lacks(where: str, names: Sequence[str]) -> FimTokenError:
    """The refusal of a model whose vocabulary lacks the FIM tokens `names`."""
    return FimTokenError(
        f"{where} lacks the FIM token(s) {', '.join(names)}",
        "Train it with --add-fim-tokens, or choose a base that was trained to fill in the middle, "
        "such as bigcode/starcoderbase-1b.",
    )


def _fitted(spec: FimSpec, token_to_id: Callable[[str], int | None], end_of_text: str | None) -> FimSpec:
    if end_of_text and token_to_id(spec.end_of_text) is None:
        spec = replace(spec, end_of_text=end_of_text)
    return replace(spec, pad=spec.pad if spec.pad and token_to_id(spec.pad) is not None else None)


def resolve(spec: FimSpec, token_to_id: Callable[[str], int | None], where: str = "this tokenizer") -> FimIds:
    """The ids of `spec`'s tokens. Raises FimTokenError naming every missing one."""
    ids = {name: token_to_id(name) for name in spec.control_tokens}
    missing = [name for name, number in ids.items() if number is None]
    if missing:
        raise FimTokenError(
            f"{where} lacks the FIM token(s) {', '.join(missing)}",
            "Use the tokenizer that the base model was trained with.",
        )
    found = {name: number for name, number in ids.items() if number is not None}
    return FimIds(
        prefix=found.get(spec.prefix, NO_ID),
        suffix=found.get(spec.suffix, NO_ID),
        middle=found.get(spec.middle, NO_ID),
        end_of_text=found[spec.end_of_text],
        control=frozenset(found.values()),
        file_separator=found[spec.file_separator] if spec.file_separator else None,
    )
