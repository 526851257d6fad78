"""How the service is: for load balancers, and for whoever keeps the figures.

`/healthz` says that this process answers; `/readyz` says which of its parts do, so that a
store that is away is told apart from a worker that is; `/metrics` is for Prometheus.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from handlers.base import Api
from handlers.counts import Counts
from handlers.parts import Parts

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 1.0


class AlivePage(Api):
    """GET /healthz"""

    def get(self) -> None:
        self.answer({"status": "ok", "build": self.parts.build})


class ReadyPage(Api):
    """GET /readyz"""

    async def get(self) -> None:
        names = list(self.parts.checks)
        told = await asyncio.gather(*(_answer(self.parts.checks[name]) for name in names))
        well = not any(told)
        body = {
            "status": "ok" if well else "unavailable",
            "parts": {name: sentence or "ok" for name, sentence in zip(names, told, strict=True)},
        }
        if not well:
            self.set_header("Retry-After", 2)
        self.answer(body, 200 if well else 503)


async def _answer(check: Callable[[], Awaitable[str]]) -> str:
    try:
        return await asyncio.wait_for(check(), PATIENCE_SECONDS)
    except TimeoutError:
        return "no answer in time"
    except Exception as error:  # whatever ails a part, the other parts are still told of
        log.warning("a part is not ready: %s", error)
        return "not ready"


class MetricsPage(Api):
    """GET /metrics"""

    def initialize(self, parts: Parts, counts: Counts) -> None:  # type: ignore[override]
        super().initialize(parts)
        self.counts = counts

    async def get(self) -> None:
        registry = CollectorRegistry()
        registry.register(_Gathered([*self._people(), *await self._jobs(), *self._others()]))
        self.set_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.finish(generate_latest(registry))

    def _people(self) -> Iterable[Metric]:
        people = GaugeMetricFamily(
            "nowserving_people", "People in a line, by state", labels=["line", "state"]
        )
        places = GaugeMetricFamily("nowserving_places", "Places at the desk", labels=["line"])
        for name, line in self.parts.lines.items():
            public = line.public()
            people.add_metric([name, "waiting"], public.waiting)
            people.add_metric([name, "called"], len(public.called))
            people.add_metric([name, "ready"], len(public.ready))
            people.add_metric([name, "serving"], len(public.serving))
            places.add_metric([name], public.places)
        return people, places

    async def _jobs(self) -> Iterable[Metric]:
        jobs = GaugeMetricFamily(
            "nowserving_jobs", "Jobs in a line, by state", labels=["line", "state"]
        )
        slots = GaugeMetricFamily("nowserving_slots", "Slots of the downstream", labels=["line"])
        for name, line in self.parts.jobs.items():
            stats = await line.stats()
            for state in ("ready", "reserved", "delayed", "buried"):
                jobs.add_metric([name, state], getattr(stats, state))
            slots.add_metric([name], stats.cap)
        return jobs, slots

    def _others(self) -> Iterable[Metric]:
        answers = CounterMetricFamily(
            "nowserving_answers", "Answers of this process", labels=["handler", "status"]
        )
        for (handler, status), count in self.counts.answers.items():
            answers.add_metric([handler, str(status)], count)
        answers.add_metric(["FastLane", "200"], self.counts.polls)
        answers.add_metric(["FastLane", "201"], self.counts.joins)
        yield answers
        for name, value in self.parts.counters().items():
            yield GaugeMetricFamily(f"nowserving_{name}", name.replace("_", " "), value)


class _Gathered(Collector):
    """What was read for one answer. Nothing is counted in globals: two applications in one
    process, as in tests, would count into each other."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics
