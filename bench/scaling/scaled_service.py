"""A queue and its autoscaled workers as a discrete-event simulation.

Pods, KEDA and the HorizontalPodAutoscaler (`bench.scaling.autoscaler`) are events of their own. Jobs are counted, not
followed: those that begin within a quarter of a job's time begin and end together, so that 10,000 GPUs cost as
little as ten.
"""

import itertools
from collections import Counter, deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
import simpy

from bench.scaling.autoscaler import SYNC_SECONDS, Activator, HorizontalPodAutoscaler, ScaledObject

QUARTERS = 4  # of a job's time
SEED = 0


@dataclass(frozen=True)
class Start:
    """What passes from the wish for a pod to its readiness, in seconds."""

    node: float  # until its GPU is there, and paid
    pod: float  # from then on

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.node + self.pod


@dataclass
class Pods:
    """Pods of the same age."""

    count: int
    paid_at: float
    ready: bool = False


class Service:
    """A queue and its autoscaled workers, from the first arrival to the end of the last job.

    Args:
        scaling: how it is scaled.
        arrivals: jobs that come in each quarter of a job's time.
        job_seconds: what a job takes a worker.
        start: what a new worker takes to be ready.
        replicas: workers that are ready at the beginning.
    """

    def __init__(
        self, scaling: ScaledObject, arrivals: Sequence[int], job_seconds: float, start: Start, replicas: int
    ) -> None:
        self.waits: Counter[int] = Counter()  # jobs by the quarters that they waited, accepted to drawn
        self.queued = self.running = self.most_queued = 0
        self.replicas = self.least_replicas = self.most_replicas = replicas
        self.gpu_seconds = 0.0  # from a node's arrival to its pod's end
        self.drained = 0  # workers that were drawing when they were told to end
        self._scaling, self._arrivals, self._start = scaling, arrivals, start
        self._quarter = job_seconds / QUARTERS
        self._ready = replicas
        self._pods = [Pods(replicas, 0.0, ready=True)]  # oldest first
        self._random = np.random.default_rng(SEED)
        self._environment = simpy.Environment()

    def run(self) -> None:
        """See all jobs to their end."""
        self._environment.process(self._autoscale())
        self._environment.process(self._activate())
        self._environment.run(self._environment.process(self._draw()))
        now = self._environment.now
        self.gpu_seconds += sum(pods.count * max(0.0, now - pods.paid_at) for pods in self._pods)

    def _draw(self) -> Generator[simpy.Event, None, None]:
        ending = [0] * QUARTERS
        queue: deque[list[int]] = deque()  # [quarter, jobs that came in it], oldest first
        for quarter, arrived in enumerate(itertools.chain(self._arrivals, itertools.repeat(0))):
            self.running -= ending[quarter % QUARTERS]
            if arrived:
                queue.append([quarter, arrived])
                self.queued += arrived
            elif quarter >= len(self._arrivals) and not self.queued and not self.running:
                return
            begun = left = min(self.queued, max(0, self._ready - self.running))
            ending[quarter % QUARTERS] = begun
            self.running += begun
            self.queued -= begun
            while left:
                oldest = queue[0]
                taken = min(left, oldest[1])
                self.waits[quarter - oldest[0]] += taken
                left -= taken
                oldest[1] -= taken
                if not oldest[1]:
                    queue.popleft()
            self.most_queued = max(self.most_queued, self.queued)
            yield self._environment.timeout(self._quarter)

    def _autoscale(self) -> Generator[simpy.Event, None, None]:
        autoscaler = HorizontalPodAutoscaler(self._scaling)
        while True:
            yield self._environment.timeout(SYNC_SECONDS)
            self._scale(autoscaler.sync(self._environment.now, self.replicas, self._value()))

    def _activate(self) -> Generator[simpy.Event, None, None]:
        activator = Activator(self._scaling)
        while True:
            yield self._environment.timeout(self._scaling.polling_seconds)
            self._scale(activator.poll(self._environment.now, self.replicas, self._value()))

    def _value(self) -> int:
        """Return the field of `GET /v1/queue` that is scaled on."""
        return {"demand": self.queued + self.running, "queued": self.queued}[self._scaling.metric]

    def _scale(self, replicas: int) -> None:
        if replicas > self.replicas:
            self._environment.process(self._add(replicas - self.replicas))
        elif replicas < self.replicas:
            self._remove(self.replicas - replicas)
        self.replicas = replicas
        self.least_replicas = min(self.least_replicas, replicas)
        self.most_replicas = max(self.most_replicas, replicas)

    def _add(self, count: int) -> Generator[simpy.Event, None, None]:
        pods = Pods(count, paid_at=self._environment.now + self._start.node)
        self._pods.append(pods)
        yield self._environment.timeout(self._start.seconds)
        pods.ready = True
        self._ready += pods.count

    def _remove(self, count: int) -> None:
        """Take away those that aren't ready, then the youngest.

        So does a ReplicaSet (kubernetes/kubernetes `pkg/controller/controller_utils.go`, ActivePodsWithRanks). It
        doesn't know which are busy; those finish what they draw.
        """
        taken_ready = 0
        busy = min(self.running, self._ready)
        idle = self._ready - busy
        while count:
            pods = self._pods[-1]
            taken = min(count, pods.count)
            self.gpu_seconds += taken * max(0.0, self._environment.now - pods.paid_at)
            taken_ready += taken * pods.ready
            count -= taken
            pods.count -= taken
            if not pods.count:
                self._pods.pop()
        self._ready -= taken_ready
        self.drained += int(self._random.hypergeometric(busy, idle, taken_ready))
