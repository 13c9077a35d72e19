"""Qwen's chat turns, written out: a system turn, a user turn, and the assistant's turn opened.

As the chat templates of Qwen2-VL and Qwen2.5-VL render them; they add the default system turn where there is none.
"""

from __future__ import annotations

DEFAULT_SYSTEM = "You are a helpful assistant."
TURN_END, TERMINAL = "<|im_end|>", "<|endoftext|>"


def chat(user: str, system: str = DEFAULT_SYSTEM) -> str:
    """The prompt of one user turn."""
    turns = "".join(f"<|im_start|>{role}\n{said}{TURN_END}\n" for role, said in (("system", system), ("user", user)))
    return turns + "<|im_start|>assistant\n"
