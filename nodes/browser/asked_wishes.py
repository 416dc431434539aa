"""What the user asks of a running run, and what can be asked of it now."""

from collections.abc import Mapping
from typing import Any, get_args

from ...trainer.events import Wish
from .state_fields import LIVE

FINISH, PAUSE, GO_ON = "finish", "pause", "go_on"
WISHES = (FINISH, PAUSE, GO_ON, "sample", "save")
WHY_NOT = {
    PAUSE: "it is paused already",
    GO_ON: "it is not paused",
    "sample": "pictures are asked for already",
    "save": "a checkpoint is asked for already",
}


class AskedWishes:
    """Those of one run, and the one place that knows whether it takes any; who holds it sees to its lock."""

    def __init__(self) -> None:
        self._asked: list[Wish] = []
        self._is_finishing = False
        self.is_paused = False
        self.is_over = False
        """Whether its last step is behind it."""

    def ask(self, wish: str) -> None:
        """Note a wish that `possible` holds."""
        if wish in (PAUSE, GO_ON):
            self.is_paused = wish == PAUSE
        for known in get_args(Wish):
            if wish == known:
                self._asked.append(known)
        if wish == FINISH:
            self._is_finishing = True
            self.is_paused = False  # a run that waits for something to be learned takes the steps it needs

    def take(self) -> Wish | None:
        """The oldest that was not heard yet."""
        return self._asked.pop(0) if self._asked else None

    def possible(self, state: Mapping[str, Any]) -> list[str]:
        """What can be asked of a run in this state; to finish, from its beginning: it waits for a step."""
        is_at_last_step = state["num_steps"] and state["step"] >= state["num_steps"]
        if state["state"] not in LIVE or self.is_over or self._is_finishing or is_at_last_step:
            return []
        possible = [FINISH, GO_ON if self.is_paused else PAUSE]
        return [*possible, *(wish for wish in ("sample", "save") if wish not in self._asked)]

    def refusal(self, wish: str, state: Mapping[str, Any]) -> str:
        """Why `wish` cannot be had now; empty when it can."""
        possible = self.possible(state)
        if wish in possible:
            return ""
        if state["state"] == "preparing":
            return "the training has not begun yet"
        if state["state"] not in LIVE:
            return "it has ended"
        if self.is_over:
            return "it has trained to its end"
        return WHY_NOT[wish] if possible else "it is about to end"

    def waiting(self, state: Mapping[str, Any]) -> list[str]:
        """Asked and not granted yet."""
        if state["state"] not in LIVE:
            return []
        shown: list[str] = [wish for wish in self._asked if wish != FINISH]
        is_held = state["state"] == "paused"
        if is_held != self.is_paused and not self._is_finishing:
            shown.append(GO_ON if is_held else PAUSE)
        return [FINISH, *shown] if self._is_finishing else shown

    def end_steps(self) -> None:
        """No step comes any more: of what was asked for, only pictures and what the end brings are left."""
        self.is_over, self.is_paused = True, False

    def close(self) -> None:
        """Nothing of it is granted any more."""
        self.end_steps()
        self._is_finishing = False
        self._asked.clear()
