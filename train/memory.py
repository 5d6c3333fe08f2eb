"""Memory of a training: how much it took at most, and what to change when there is too little."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from toolchain.contracts.errors import StageError
from train.distributed import World
from train.settings import TrainSettings

WORDS = ("allocate memory", "out of memory", "ALLOC_FAILED", "Invalid buffer size")


def peak_memory(device: torch.device) -> int | None:
    """The most that was ever taken, in bytes: of the GPU, else of this process; None where that cannot be known.

    Of Apple's GPUs it is what Metal has handed out by now: no peak is kept, and PyTorch's allocator keeps the blocks.
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if device.type == "mps":
        return int(torch.mps.driver_allocated_memory())
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error of PyTorch says that memory does not suffice: Apple's GPUs, cuBLAS and processors have words."""
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in WORDS)


@contextmanager
def room_for_the_base(settings: TrainSettings) -> Iterator[None]:
    """Raise StageError with what to change where not even the base's weights have room."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        fits = {"full": "--method lora", "lora": "--method qlora", "qlora": "a smaller base"}[settings.method]
        next_step = f"Use {fits}; fimble plan tells what a training needs."
        raise StageError("the memory does not suffice for the base's weights", next_step) from None


def out_of_memory(settings: TrainSettings, world: World) -> StageError:
    """What to change, the cheapest first: nothing that changes the result while there is such a thing."""
    tokens = settings.batch_size * settings.sequence_length
    problem = f"the memory does not suffice for {tokens:,} tokens in one forward pass"
    if settings.batch_size > 1:
        size, passes = settings.batch_size // 2, settings.gradient_accumulation
        same = passes * settings.batch_size / size
        fits = f"--batch-size {size} --gradient-accumulation {round(same)}"
    elif not settings.gradient_checkpointing:
        fits = "--gradient-checkpointing"
    elif settings.method == "lora":
        fits = "--method qlora"
    elif settings.method == "full" and world.size == 1:
        fits = "--method lora, or --launcher torchrun with several GPUs"
    elif settings.sequence_length > 512:
        fits = f"--sequence-length {settings.sequence_length // 2}"
    else:
        fits = "a smaller base"
    return StageError(problem, f"Use {fits}; fimble plan tells what a training needs.")
