"""How fast one provider may be asked: its declared limits or, where none is declared, what it turns out to bear."""

from __future__ import annotations

import asyncio
import time

from aiolimiter import AsyncLimiter

from arena10k.collection.tasks import Request
from arena10k.errors import Stopped
from arena10k.params.sections import Provider

#: Without declared limits, requests in flight start here, double while all goes well, and are halved on a complaint.
FIRST_CONCURRENCY = 8
#: Complaints within this many seconds are one complaint: they concern requests that were in flight together.
SAME_COMPLAINT = 1.0


class Limits:
    """Pace and concurrency of one provider.

    Declared requests and tokens per minute are kept by leaky buckets of one second. Where neither is declared,
    concurrency follows AIMD (Chiu and Jain 1989, with the slow start of TCP). A Retry-After holds back every request.
    """

    def __init__(self, provider: Provider, stopped: asyncio.Event):
        self.most, self._stopped = provider.concurrency, stopped
        declared = [provider.requests_per_minute, provider.tokens_per_minute]
        self._requests, self._tokens = (_bucket(limit) for limit in declared)
        self._adaptive = not any(declared)
        self.concurrency = float(min(FIRST_CONCURRENCY, self.most)) if self._adaptive else float(self.most)
        self._ceiling = float(self.most)
        self._not_before = self._complained = 0.0
        self._changed = asyncio.Event()

    async def turn(self, worker: int) -> None:
        """Wait while worker number `worker` (from 0) is beyond the present concurrency."""
        while worker >= max(1, int(self.concurrency)):
            self._changed.clear()
            await self._changed.wait()

    async def pace(self, request: Request) -> None:
        """Wait until one more request may be sent. Raises Stopped where the collection stops meanwhile."""
        while True:
            await pause(self._not_before - time.monotonic(), self._stopped)
            if self._requests:
                await self._take(self._requests, 1)
            if self._tokens:
                left = float(request.prompt_tokens + request.max_tokens)
                while left > 0:  # a request larger than one second's worth takes several
                    part = min(left, self._tokens.max_rate)
                    await self._take(self._tokens, part)
                    left -= part
            if self._not_before <= time.monotonic():  # else all were told to hold back meanwhile
                return

    async def _take(self, bucket: AsyncLimiter, amount: float) -> None:
        if bucket.has_capacity(amount):
            await bucket.acquire(amount)
            return
        taken, stop = asyncio.create_task(bucket.acquire(amount)), asyncio.create_task(self._stopped.wait())
        await asyncio.wait({taken, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not taken.done():
            taken.cancel()
            raise Stopped

    def succeeded(self) -> None:
        """An answer came: without declared limits, allow more requests at once."""
        if not self._adaptive or self.concurrency >= self.most:
            return
        before = int(self.concurrency)
        step = 1.0 if self.concurrency < self._ceiling else 1.0 / self.concurrency
        self.concurrency = min(self.concurrency + step, self.most)
        if int(self.concurrency) > before:
            self._changed.set()

    def overloaded(self, retry_after: float | None) -> None:
        """The provider refused for being asked too much (429, 503), or did not answer in time."""
        now = time.monotonic()
        if retry_after:
            self._not_before = max(self._not_before, now + retry_after)
        if self._adaptive and now - self._complained > SAME_COMPLAINT:
            self._complained = now
            self.concurrency = self._ceiling = max(1.0, self.concurrency / 2)

    def release(self) -> None:
        """Let every waiting worker go: there is nothing more to do."""
        self.concurrency, self._adaptive = float(self.most), False
        self._changed.set()


async def happens_within(event: asyncio.Event, seconds: float) -> bool:
    """Wait so long, or until the event; whether it came."""
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return False
    return True


async def pause(seconds: float, stopped: asyncio.Event) -> None:
    """Wait so long. Raises Stopped where the collection stops meanwhile."""
    if seconds > 0 and await happens_within(stopped, seconds):
        raise Stopped


def _bucket(per_minute: int | None) -> AsyncLimiter | None:
    if not per_minute:
        return None
    per_second = per_minute / 60
    return AsyncLimiter(per_second, 1.0) if per_second >= 1 else AsyncLimiter(1, 1 / per_second)
