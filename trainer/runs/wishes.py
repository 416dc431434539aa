"""What somebody who watches a run may ask of it on its way, heard and granted between two steps."""

import contextlib
import time
from collections.abc import Callable

from ..errors import CancelledError
from ..events import Listener, Wish
from ..loop import StopEarly
from ..training import Training
from .previews import Previewer
from .run_writer import RunWriter

PAUSE_SECONDS = 0.1
"""Between two looks at whether a paused run goes on."""

Read = Callable[[], None]
"""Reports the figures of steps that are still on the device."""


class Wishes:
    """Hears what the listener asks for and does it; to cancel goes before everything else.

    Args:
        training: between two steps whenever something is heard.
        writer: of the run.
        listener: who may ask.
        previewer: draws when it is asked to; None where nobody can ask.
        goes_past_end: a run that was asked to end before goes on past that step.
    """

    def __init__(
        self,
        training: Training,
        writer: RunWriter,
        listener: Listener,
        previewer: Previewer | None,
        goes_past_end: bool = False,
    ) -> None:
        self._goes_past_end = goes_past_end
        self._training = training
        self._writer = writer
        self._listener = listener
        self._previewer = previewer
        self._is_to_end = False
        self.asked_for_pictures = False
        """Whether pictures were asked for in this call: then those of the last step belong to them."""

    def start(self) -> None:
        """Before the first step of this call.

        Raises:
            StopEarly: the run was asked to end here, before its last file was written.
        """
        asked = self._writer.asked
        if asked.end and asked.end == self._training.step:
            if self._goes_past_end:
                return  # until something is saved, the finished file is what was asked for
            raise StopEarly
        if asked.end:
            self._write_end(0)  # it was taken up before that step, or goes on for another reason

    def hear(self, read: Read) -> None:
        """Grant what is asked for, and hold the run for as long as it is to pause.

        Args:
            read: is called before anything is done, so that none of it counts as a step's time.

        Raises:
            CancelledError: the listener asked to stop; everything is saved.
            StopEarly: it asked for the run to end.
        """
        has_granted = self._grant_all(read)
        is_paused = self._is_held()
        if is_paused:
            self._pause(read)
        if has_granted or is_paused:
            self._listener.activity("training")

    def stop_if_asked(self, read: Read) -> None:
        """Save and end where the listener asks to stop.

        Raises:
            CancelledError: it does.
        """
        if self._listener.should_stop():
            read()
            self._listener.activity("ending")
            self._listener.activity("saving")
            raise CancelledError(self._training.step, self._writer.save_or_explain())

    def hear_last(self) -> None:
        """After the last step: what is still asked for comes with the end, but for pictures."""
        while (wish := self._listener.next_wish()) is not None:
            self.asked_for_pictures |= wish == "sample"

    def _is_held(self) -> bool:
        """A run that is to end takes the steps that it still needs for it."""
        return self._listener.is_paused() and not self._is_to_end

    def _pause(self, read: Read) -> None:
        read()
        self._listener.activity("paused")
        while self._is_held():
            self.stop_if_asked(read)
            if self._grant_all(read):
                self._listener.activity("paused")
            else:
                time.sleep(PAUSE_SECONDS)
        self.stop_if_asked(read)
        self._grant_all(read)  # what was asked for together with going on, and before any further step

    def _grant_all(self, read: Read) -> bool:
        """Whether something was asked for and done."""
        has_granted = False
        while (wish := self._listener.next_wish()) is not None:
            read()
            self._grant(wish)
            has_granted = True
            self.stop_if_asked(read)
        if self._is_to_end and self._may_end(read):
            self._write_end(self._training.step)
            raise StopEarly
        return has_granted

    def _grant(self, wish: Wish) -> None:
        if wish == "finish":
            self._is_to_end = True
        elif wish == "save":
            self._listener.activity("saving")
            self._writer.save_as_asked()
        elif wish == "sample":
            self.asked_for_pictures = True
            self._draw()

    def _draw(self) -> None:
        if self._previewer is not None and not self._previewer.has_drawn(self._training.step):
            self._listener.activity("sampling")
            self._previewer.draw(self._training)

    def _may_end(self, read: Read) -> bool:
        """Whether all that has had its turn has moved: a run that learned nothing is no success.

        A first step may be left out, as float16 finds its scale, and a first caption may hold no new word.
        """
        read()
        training = self._training
        begun = [part for part in training.parts if training.step > part.window[0]]
        return training.step > training.num_skipped and all(part.num_still() < part.size for part in begun)

    def _write_end(self, step: int) -> None:
        # what is told about the end matters less than the end; where the disk is full the file will tell
        with contextlib.suppress(OSError):
            self._writer.asked.end_at(step)
