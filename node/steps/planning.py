"""Planning: the jobs of a complete study, one for each series and engine."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from operator import attrgetter

from db.records import Instance, PlannedJob
from inference.engines import engine_class
from inference.headers import ImageHeader, Selection
from node.configuration.configuration import Configuration
from node.errors import raised_at
from node.steps import routing

log = logging.getLogger("overread.planning")


def plan_study(configuration: Configuration, instances: Sequence[Instance]) -> list[PlannedJob]:
    """The jobs of a study. A series that no rule takes gets a job that is skipped, with the reason."""
    by_series = attrgetter("series_instance_uid")
    plan: list[PlannedJob] = []
    for _, group in groupby(sorted(instances, key=by_series), key=by_series):
        plan += _plan_series(configuration, list(group))
    return plan


def _plan_series(configuration: Configuration, series: Sequence[Instance]) -> list[PlannedJob]:
    by_uid = {instance.sop_instance_uid: instance for instance in series}
    digests = {uid: instance.sha256 for uid, instance in by_uid.items()}
    series_uid = series[0].series_instance_uid
    routable = [routing_instance(instance) for instance in series]
    jobs: dict[str, PlannedJob] = {}
    refusals: list[str] = []
    for route in configuration.route:
        verdict = routing.verdict_of(route, routable)
        if not verdict.takes:
            refusals.append(f"{route.name}: {verdict.reason}")
            continue
        for name in route.engines:
            planned = jobs.get(name)
            if planned is not None:
                destinations = tuple(dict.fromkeys(planned.destinations + route.destinations))
                jobs[name] = replace(planned, destinations=destinations)
                continue
            selection = selection_of(configuration.engine_named(name).kind, verdict.instances)
            inputs = selection.inputs or tuple(i.sop_instance_uid for i in verdict.instances)
            jobs[name] = PlannedJob(
                series_instance_uid=series_uid,
                engine=name,
                route=route.name,
                destinations=route.destinations,
                priority=route.priority,
                inputs=inputs,
                inputs_digest=digest_of(inputs, digests),
                input_bytes=sum(by_uid[uid].size for uid in inputs),
                source=by_uid[inputs[0]].calling_ae,
                weight=route.weight,
                skip_reason=None
                if selection.inputs
                else selection.reasons or f"{name} selects no image of it",
            )
    if jobs:
        return list(jobs.values())
    everything = tuple(sorted(digests))
    return [
        PlannedJob(
            series_instance_uid=series_uid,
            engine=None,
            route=None,
            destinations=(),
            priority=0,
            inputs=everything,
            inputs_digest=digest_of(everything, digests),
            input_bytes=sum(instance.size for instance in series),
            source=series[0].calling_ae,
            weight=1.0,
            skip_reason="no rule takes this series: " + ("; ".join(refusals) or "there are no rules"),
        )
    ]


def selection_of(kind: str, instances: Sequence[routing.Instance]) -> Selection:
    """The images of a series that an engine of this kind takes; none if it fails."""
    headers = [
        ImageHeader(
            sop_class_uid=i.sop_class_uid, sop_instance_uid=i.sop_instance_uid, attributes=i.attributes
        )
        for i in instances
    ]
    try:
        return engine_class(kind).select(headers)
    except Exception as error:
        # Plug-ins may raise anything; one series must not keep all studies waiting.
        name = type(error).__name__
        log.error("selection_failed kind=%s error=%s place=%s", kind, name, raised_at(error))
        reason = f"{kind} failed to say whether it takes this series ({name}): see the log"
        return Selection(inputs=(), refused={h.sop_instance_uid: reason for h in headers})


def routing_instance(instance: Instance) -> routing.Instance:
    """An indexed instance as routing rules see it."""
    return routing.Instance(
        sop_instance_uid=instance.sop_instance_uid,
        sop_class_uid=instance.sop_class_uid,
        attributes=instance.attributes,
    )


def digest_of(inputs: Sequence[str], digests: dict[str, str]) -> str:
    """A SHA-256 digest of the UIDs and bytes of a job's inputs, the same in any order.

    Args:
        inputs: SOP Instance UIDs.
        digests: the SHA-256 digest of each instance's file, by SOP Instance UID.
    """
    lines = sorted(f"{uid} {digests[uid]}" for uid in inputs)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
