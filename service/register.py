"""The OMS's webhooks to us: looked at, and brought to what they should be as often as need be."""

from __future__ import annotations

from service import hooks
from service.config import Config
from service.errors import ConfigurationError, OmsUnreachable
from service.hooks import Action, Plan, Step, Wanted
from service.oms import HookRefused, HookSaved, Oms, why_unread
from service.outcome import NotFound

# One to do it, and one more where somebody else did the same meanwhile.
_ROUNDS = 2


def wanted(config: Config) -> Wanted:
    """What should be registered. Raises `ConfigurationError` where it is not known where the OMS reaches us."""
    if config.public_url is None:
        raise ConfigurationError("PUBLIC_URL: required to register webhooks: the address at which the OMS reaches us")
    return Wanted(config.public_url + hooks.RECEIVER_PATH, config.authentication)


def plan(oms: Oms, target: Wanted) -> Plan:
    """What would be done now. Raises `OmsUnreachable` where the OMS does not show its webhooks."""
    existing = oms.registered_hooks()
    if not isinstance(existing, tuple):
        cause = "nothing is at OMS_HOOKS_PATH (404)" if isinstance(existing, NotFound) else why_unread(existing)
        raise OmsUnreachable(f"the OMS did not show its webhooks: {cause}")
    return hooks.plan(target, existing, oms.event_types())


def apply(oms: Oms, target: Wanted, agreed: Plan) -> Plan:
    """Carries out a plan, looks again, and returns what is there now.

    A webhook that somebody registered meanwhile counts as existing. Raises `OmsUnreachable` where a step is not
    answered, and `ConfigurationError` where the OMS refuses what is configured.
    """
    for _ in range(_ROUNDS):
        for step in agreed.changes:
            _carry_out(oms, step)
        agreed = plan(oms, target)
        if not agreed.changes:
            return agreed
    left = ", ".join(step.event_type for step in agreed.changes)
    raise OmsUnreachable(f"the OMS took the changes and does not show them: {left}")


def _carry_out(oms: Oms, step: Step) -> None:
    answer = oms.save_hook(step.values, step.hook_id)
    what = f"{step.action} {step.event_type}" + (f" (webhook {step.hook_id})" if step.hook_id else "")
    if isinstance(answer, HookSaved):
        return
    if not isinstance(answer, HookRefused):
        raise OmsUnreachable(f"{what}: {why_unread(answer)}")
    if not (step.action is Action.CREATE and answer.already_registered):
        named = f", as it says because of {', '.join(answer.fields)}" if answer.fields else ""
        raise ConfigurationError(f"{what}: the OMS refuses it ({answer.status}){named}")
