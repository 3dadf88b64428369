"""When one of several server processes begins to take connections."""

from dataclasses import dataclass
from multiprocessing.connection import Connection


@dataclass(frozen=True)
class Entry:
    """What keeps an address that was ready from answering that networks are being loaded.

    One process takes connections at once, so that liveness is answered while networks are loaded.
    The others, and every successor, take none before they are ready and the address has been.

    opened, opens: the ends of a pipe that all processes share; something lies in it from then on.
    at_once: whether this is the one.
    """

    opened: Connection
    opens: Connection
    at_once: bool

    def loaded(self) -> None:
        """This process is ready: if it is the one, the others may take connections too."""
        if self.at_once:
            self.open()

    def open(self) -> None:
        """Whoever is ready may take connections."""
        if not self.opened.poll():
            self.opens.send_bytes(b".")

    def admits(self, ready: bool) -> bool:
        """Whether this process may take connections now.

        ready: its networks are loaded.
        """
        return self.at_once or (ready and self.opened.poll())
