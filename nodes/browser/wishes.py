"""What the user asks of a running run, and what can be asked of it now."""

from collections.abc import Mapping
from typing import Any, get_args

from ...trainer.events import Wish
from .run_state import LIVE

PAUSE, GO_ON = "pause", "go_on"
WISHES = ("finish", PAUSE, GO_ON, "sample", "save")
WHY_NOT = {
    "finish": "there is nothing to finish yet: the first step is not done",
    PAUSE: "it is paused already",
    GO_ON: "it is not paused",
    "sample": "pictures are asked for already",
    "save": "a checkpoint is asked for already",
}


class Wishes:
    """Those of one run; whoever holds it sees to its lock."""

    def __init__(self) -> None:
        self._asked: list[Wish] = []
        self.is_paused = False
        self._is_finishing = False

    def ask(self, wish: str) -> None:
        """Note a wish that `possible` holds."""
        if wish in (PAUSE, GO_ON):
            self.is_paused = wish == PAUSE
        for known in get_args(Wish):
            if wish == known:
                self._asked.append(known)
                self._is_finishing |= wish == "finish"

    def take(self) -> Wish | None:
        """The oldest that was not heard yet."""
        return self._asked.pop(0) if self._asked else None

    def possible(self, state: Mapping[str, Any]) -> list[str]:
        """What can be asked of a run in this state."""
        step, running = state["step"], state["state"] in LIVE
        if not running or self._is_finishing or (state["num_steps"] and step >= state["num_steps"]):
            return []
        possible = ["finish"] if step >= 1 else []
        possible.append(GO_ON if self.is_paused else PAUSE)
        return [*possible, *(wish for wish in ("sample", "save") if wish not in self._asked)]

    def refusal(self, wish: str, state: Mapping[str, Any]) -> str:
        """Why `wish` cannot be had now; empty when it can."""
        if wish in self.possible(state):
            return ""
        if state["state"] in LIVE:
            return "it is about to end" if not self.possible(state) else WHY_NOT[wish]
        return "it trains not yet" if state["state"] == "preparing" else "it has ended"

    def waiting(self, state: Mapping[str, Any]) -> list[str]:
        """Asked and not granted yet."""
        shown: list[str] = [wish for wish in self._asked if wish != "finish"]
        is_held = state["state"] == "paused"
        if is_held != self.is_paused:
            shown.append(GO_ON if is_held else PAUSE)
        return ["finish", *shown] if self._is_finishing else shown

    def clear(self) -> None:
        self._asked.clear()
        self.is_paused = self._is_finishing = False
