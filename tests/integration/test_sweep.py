"""The sweep: what no webhook announced is found, whatever the OMS makes of our filters."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from service import brakes, sweep, worklist
from service.database import attempts, deliveries, packages, timeline
from service.database import sweep as sweep_row
from service.delivery import Delivery
from service.inbox import accept
from service.oms import Oms
from service.sandbox import Request, Response
from service.sweep import Sweeper
from service.wire import StateValue
from tests.integration.conftest import Clock, Floor
from tests.oms_faults import Fault, FaultyOms, answers, hangs

FloorWith = Callable[..., Floor]


@dataclass(kw_only=True)
class DeafOms(FaultyOms):
    """Ignores the named query parameters, as an OMS does with those it does not know."""

    deaf_to: tuple[str, ...] = ()

    def answer(self, request: Request) -> Any:
        query = {name: value for name, value in request.query.items() if name not in self.deaf_to}
        return super().answer(Request(request.method, request.path, query, request.token, request.body))

    def _package_rows(self, request: Request) -> list[dict[str, Any]]:
        rows = super()._package_rows(request)
        return rows if "sort" in request.query else rows[::-1]


def a_sweeper(floor: Floor, wait: Callable[[float], bool] = lambda _: False) -> Sweeper:
    return Sweeper(floor.config, floor.store, floor.attendant.oms, wait)


def swept_meanwhile(floor: Floor) -> sweep.Swept | None:
    """What another worker's sweeper does while ours waits for an answer."""
    oms = Oms(floor.config.oms)
    try:
        return Sweeper(floor.config, floor.store, oms, lambda _: False).sweep_if_due()
    finally:
        oms.close()


def swept(floor: Floor, **changes: Any) -> sweep.Swept:
    done = a_sweeper(floor).sweep_if_due(**changes)
    assert done is not None
    return done


def packed(oms: FaultyOms, *package_ids: int, items: tuple[str, ...] = ("400",)) -> None:
    for package_id in package_ids:
        oms.create(package_id, items)
        oms.pack(package_id)


def state_of_sweep(floor: Floor) -> Any:
    with floor.store.reading() as transaction:
        return transaction.execute(sa.select(sweep_row)).one()


def deliver_late(floor: Floor, package_id: int) -> None:
    state = StateValue("PackageStatus", "500")
    accept(floor.store, Delivery(package_id, None, "package.status.packed", state, 0), floor.config.settings)


def settle(floor: Floor) -> None:
    """Turns the clock until nothing is due within an hour."""
    with floor.store.reading() as transaction:
        known = [row["package_id"] for row in worklist.listed(transaction, None, None, limit=10_000)]
    for package_id in known:
        floor.run(package_id, timedelta(minutes=20))


def test_a_packed_package_whose_webhook_never_came_ships_within_two_sweep_intervals(
    floor_with: FloorWith, clock: Clock
) -> None:
    floor = floor_with(SWEEP_INTERVAL_S="300")
    assert swept(floor).listed == 0
    packed(floor.oms, 73)
    clock.turn(timedelta(seconds=299))
    assert a_sweeper(floor).sweep_if_due() is None
    clock.turn(timedelta(seconds=1))
    assert [one.package_id for one in swept(floor).found] == [73]
    settle(floor)
    assert floor.where(73) == ("shipped", None)
    assert floor.oms.shipped_by_command(73) == 1


@pytest.mark.parametrize("deaf_to", [(), ("id__gt",), ("sort",), ("id__gt", "sort")])
def test_every_package_is_listed_whichever_of_our_parameters_the_oms_knows(
    floor_with: FloorWith, clock: Clock, deaf_to: tuple[str, ...]
) -> None:
    floor = floor_with(DeafOms(clock=clock, deaf_to=deaf_to, page_size=3), ADOPT_MAX="100")
    packed(floor.oms, *range(1, 11))
    done = swept(floor)
    assert done.problem is None
    assert sorted(one.package_id for one in done.found) == list(range(1, 11))


def test_packages_that_ship_while_the_list_is_read_hide_no_others(floor_with: FloorWith, clock: Clock) -> None:
    floor = floor_with(DeafOms(clock=clock, deaf_to=("id__gt", "sort"), page_size=3), ADOPT_MAX="100")
    packed(floor.oms, *range(1, 11))
    shipped = iter([10, 9, 8])

    def ships_another(oms: FaultyOms, request: Request) -> Response:
        answer = oms.answer_well(request)
        oms.ship_by_hand(next(shipped))
        return answer

    floor.oms.script("list", ships_another, ships_another, ships_another)
    done = swept(floor)
    assert done.problem is None
    assert {one.package_id for one in done.found} >= set(range(1, 8))


def test_a_filter_the_oms_ignores_ends_the_pass_and_hints_at_nothing(floor_with: FloorWith, clock: Clock) -> None:
    floor = floor_with(DeafOms(clock=clock, deaf_to=("state__enum_value",)))
    floor.oms.create(72)
    packed(floor.oms, 73)
    done = swept(floor)
    assert done.problem is not None
    assert done.problem.startswith("filter_ignored")
    assert done.found == ()
    row = state_of_sweep(floor)
    assert (row.finished_at, row.under_way) == (None, False)


def test_a_pass_that_was_broken_off_goes_on_where_it_stood(floor_with: FloorWith, clock: Clock) -> None:
    floor = floor_with(FaultyOms(clock=clock, page_size=3), ADOPT_MAX="100")
    packed(floor.oms, *range(1, 8))
    floor.oms.script("list", lambda oms, request: oms.answer_well(request), answers(500))
    assert swept(floor).problem is not None
    assert a_sweeper(floor).sweep_if_due() is None
    clock.turn(sweep.RETRY_AFTER)
    done = swept(floor)
    assert done.problem is None
    assert [one.package_id for one in done.found] == [4, 5, 6, 7]
    assert state_of_sweep(floor).listed == 7


def test_a_page_that_is_never_answered_hides_nothing_before_it(floor_with: FloorWith, clock: Clock) -> None:
    floor = floor_with(FaultyOms(clock=clock, page_size=3), ADOPT_MAX="100")
    packed(floor.oms, *range(11, 18))

    def stumbles(oms: FaultyOms, request: Request) -> Response:
        return Response(500, b"") if int(request.query["id__gt"]) >= 13 else oms.answer_well(request)

    floor.oms.always("list", stumbles)
    assert swept(floor).problem is not None
    packed(floor.oms, 5)
    clock.turn(sweep.RESUMED_FOR - timedelta(seconds=1))
    assert swept(floor).found == ()
    clock.turn(sweep.RETRY_AFTER)
    assert 5 in [one.package_id for one in swept(floor).found]


def test_a_killed_sweeper_is_replaced_after_its_lease(floor_with: FloorWith, clock: Clock) -> None:
    floor = floor_with(FaultyOms(clock=clock, page_size=1), LEASE_S="60", OMS_RATE_PER_S="1")
    packed(floor.oms, 73, 74)

    def killed(_: float) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        a_sweeper(floor, wait=killed).sweep_if_due()
    assert a_sweeper(floor).sweep_if_due() is None
    clock.turn(timedelta(seconds=60))
    assert [one.package_id for one in swept(floor).found] == [74]


def test_one_worker_sweeps_at_a_time(floor: Floor) -> None:
    others: list[sweep.Swept | None] = []

    def meanwhile(oms: FaultyOms, request: Request) -> Response:
        others.append(swept_meanwhile(floor))
        return oms.answer_well(request)

    floor.oms.script("list", meanwhile)
    assert swept(floor).problem is None
    assert others == [None]


def test_a_sweeper_that_was_overtaken_writes_nothing_more(floor: Floor, clock: Clock) -> None:
    packed(floor.oms, 73)
    others: list[sweep.Swept | None] = []

    def overtakes(oms: FaultyOms, request: Request) -> Response:
        clock.turn(floor.config.lease)
        others.append(swept_meanwhile(floor))
        return oms.answer_well(request)

    floor.oms.script("list", overtakes)
    assert a_sweeper(floor).sweep_if_due() is None
    assert [other.listed for other in others if other] == [1]
    assert state_of_sweep(floor).listed == 1


def test_a_first_start_ships_no_more_than_adopt_max_by_itself_and_adopting_ships_the_rest_once(
    floor_with: FloorWith, clock: Clock
) -> None:
    floor = floor_with(FaultyOms(clock=clock, page_size=4), ADOPT_MAX="3")
    packed(floor.oms, *range(1, 11))
    assert [one.package_id for one in swept(floor).found] == [1, 2, 3]
    settle(floor)
    assert [floor.where(one) for one in (1, 3, 4, 10)] == [
        ("shipped", None),
        ("shipped", None),
        ("waiting", "backlog_to_confirm"),
        ("waiting", "backlog_to_confirm"),
    ]
    clock.turn(timedelta(seconds=300))
    assert swept(floor).found == ()
    floor.hint(10)
    settle(floor)
    assert floor.where(10) == ("shipped", None)
    assert swept(floor, adopt=True).problem is None
    settle(floor)
    assert [floor.oms.shipped_by_command(one) for one in range(1, 11)] == [1] * 10
    assert [floor.oms.commands_for(one) for one in range(1, 11)] == [1] * 10


def test_an_emptied_database_and_adopting_ship_everything_eligible_exactly_once(
    floor_with: FloorWith, clock: Clock
) -> None:
    floor = floor_with(FaultyOms(clock=clock, page_size=4), ADOPT_MAX="0")
    packed(floor.oms, *range(1, 31))
    floor.oms.create(31)
    floor.oms.pack(31, ["500", "400"])
    for package_id in range(1, 11):
        floor.hint(package_id)
    settle(floor)
    with floor.store.transaction() as transaction:
        for table in (packages, attempts, timeline, deliveries):
            transaction.execute(sa.delete(table))
    swept(floor, adopt=True)
    settle(floor)
    assert [floor.oms.shipped_by_command(one) for one in range(1, 31)] == [1] * 30
    assert floor.where(31) == ("waiting", "items_mixed")


def test_sweep_and_webhook_racing_lead_to_one_command(floor: Floor) -> None:
    packed(floor.oms, 73)
    assert [one.package_id for one in swept(floor).found] == [73]
    floor.hint(73)
    settle(floor)
    assert floor.oms.commands_for(73) == 1


def test_adopting_begins_anew_where_a_pass_was_broken_off(floor_with: FloorWith, clock: Clock) -> None:
    floor = floor_with(FaultyOms(clock=clock, page_size=10), ADOPT_MAX="0")
    packed(floor.oms, *range(1, 31))
    floor.oms.script("list", FaultyOms.answer_well, answers(500))
    assert swept(floor).problem is not None
    assert state_of_sweep(floor).cursor == 10
    clock.turn(sweep.RETRY_AFTER)
    assert len(swept(floor, adopt=True).found) == 30


def test_adopting_also_looks_at_what_left_packed_in_the_backlog_without_a_webhook(
    floor_with: FloorWith, clock: Clock
) -> None:
    floor = floor_with(ADOPT_MAX="0")
    packed(floor.oms, 73, 74, 75)
    swept(floor)
    floor.oms.ship_by_hand(74)
    clock.turn(timedelta(days=1))
    assert swept(floor).found == ()
    floor.oms.script("list", answers(500))
    assert a_sweeper(floor).dry_run(adopt=True).found == ()
    assert [(one.package_id, one.why) for one in a_sweeper(floor).dry_run(adopt=True).found] == [
        (73, "it waits to be adopted"),
        (75, "it waits to be adopted"),
        (74, "it waits to be adopted, but is not listed as Packed any more"),
    ]
    assert [one.package_id for one in swept(floor, adopt=True).found] == [73, 75, 74]
    settle(floor)
    assert [floor.where(one) for one in (73, 74, 75)] == [
        ("shipped", None),
        ("skipped", "not_packed"),
        ("shipped", None),
    ]
    assert floor.oms.commands_for(74) == 0
    with floor.store.reading() as transaction:
        noted = sa.select(timeline.c.text).where(timeline.c.package_id == 74, timeline.c.kind == "sweep")
        assert transaction.execute(noted.order_by(timeline.c.entry_id)).scalars().all() == [
            "listed as Packed: no webhook announced it",
            "it waits to be adopted, but is not listed as Packed any more",
        ]


def going_in_a_circle(oms: FaultyOms, request: Request) -> Response:
    page = json.loads(oms.answer_well(request).body)
    return Response(200, json.dumps(page | {"next": "/api/v1/oms/packages/?page=1"}).encode())


def test_a_list_that_goes_in_a_circle_ends_the_pass(floor_with: FloorWith, clock: Clock) -> None:
    floor = floor_with(DeafOms(clock=clock, deaf_to=("id__gt", "sort")))
    packed(floor.oms, 73, 74)
    floor.oms.always("list", going_in_a_circle)
    assert swept(floor).problem == "the list goes in a circle"


def test_pages_without_end_end_the_pass_with_the_first_empty_one(floor_with: FloorWith, clock: Clock) -> None:
    floor = floor_with(DeafOms(clock=clock, deaf_to=("id__gt", "sort")), OMS_RATE_PER_S="0")
    packed(floor.oms, 73, 74)

    def names_another(oms: FaultyOms, request: Request) -> Response:
        page, number = json.loads(oms.answer_well(request).body), int(request.query.get("page", 1))
        link = f"/api/v1/oms/packages/?state__enum_value=500&page={number + 1}"
        return Response(200, json.dumps(page | {"next": link}).encode()) if number < 50 else Response(500, b"")

    floor.oms.always("list", names_another)
    assert swept(floor).problem is None


def test_a_last_page_that_is_shown_for_every_number_ends_the_pass(floor_with: FloorWith, clock: Clock) -> None:
    floor = floor_with(DeafOms(clock=clock, deaf_to=("id__gt", "sort")), OMS_RATE_PER_S="0")
    packed(floor.oms, 73, 74)

    def shows_the_last(oms: FaultyOms, request: Request) -> Response:
        number, last = int(request.query.get("page", 1)), replace(request, query={"state__enum_value": "500"})
        page = json.loads(oms.answer_well(last).body)
        link = f"/api/v1/oms/packages/?state__enum_value=500&page={number + 1}"
        return Response(200, json.dumps(page | {"next": link}).encode()) if number < 50 else Response(500, b"")

    floor.oms.always("list", shows_the_last)
    assert swept(floor).problem == "the list goes in a circle"


def test_a_sweep_that_may_not_brake_leaves_the_workers_alone(floor: Floor) -> None:
    floor.oms.always("list", answers(401))
    sweeper = Sweeper(floor.config, floor.store, floor.attendant.oms, lambda _: False, may_brake=False)
    assert "401" in str(sweeper.dry_run().problem)
    with floor.store.reading() as transaction:
        assert brakes.read(transaction).breaker_opened_at is None


def test_held_and_dismissed_packages_are_left_alone(floor_with: FloorWith, clock: Clock) -> None:
    floor = floor_with(COMMAND_MAX_ATTEMPTS="1")
    packed(floor.oms, 73, 74)
    floor.oms.packages[73].lag = 99
    for package_id in (73, 74):
        floor.hint(package_id)
    with floor.store.transaction() as transaction:
        worklist.dismiss(transaction, 74)
    settle(floor)
    assert floor.where(73) == ("needs_attention", "refused")
    assert swept(floor).found == ()


def test_a_package_that_became_uniform_without_a_webhook_is_looked_at_and_one_that_did_not_is_not(
    floor: Floor, clock: Clock
) -> None:
    for package_id in (73, 74):
        floor.oms.create(package_id, ["400", "400"])
        floor.oms.pack(package_id, ["500", "400"])
        floor.hint(package_id)
    floor.look()
    floor.oms.set_items(73, ["500", "500"])
    clock.turn(timedelta(seconds=300))
    assert [(one.package_id, one.why) for one in swept(floor).found] == [(73, "it would ship now")]


def test_a_grace_period_that_was_made_shorter_is_so_for_packages_in_it_too(floor_with: FloorWith, clock: Clock) -> None:
    floor = floor_with(GRACE_S="86400")
    packed(floor.oms, 73)
    floor.hint(73)
    floor.look()
    clock.turn(timedelta(seconds=300))
    assert (floor.where(73), swept(floor).found) == (("waiting", "grace"), ())
    shorter = replace(floor.config.settings, grace=timedelta(seconds=600))
    floor.config = replace(floor.config, settings=shorter)
    floor.attendant = replace(floor.attendant, settings=shorter)
    clock.turn(timedelta(seconds=299))
    assert swept(floor, at_once=True).found == ()
    clock.turn(timedelta(seconds=1))
    assert [one.package_id for one in swept(floor, at_once=True).found] == [73]
    floor.run(73)
    assert floor.where(73) == ("shipped", None)


def test_missed_packages_are_counted_once_an_interval_has_brought_no_webhook(floor: Floor, clock: Clock) -> None:
    swept(floor)
    missed = []
    packed(floor.oms, 73, 74)
    for _ in range(4):
        clock.turn(timedelta(seconds=301))
        swept(floor)
        deliver_late(floor, 74)
        missed.append(state_of_sweep(floor).missed)
    assert missed == [0, 1, 1, 1]


def test_no_list_is_asked_for_while_the_oms_wants_us_to_wait(floor: Floor) -> None:
    floor.oms.script("list", answers(429, Retry_After="60"))
    assert swept(floor).problem is not None
    with floor.store.reading() as transaction:
        assert brakes.read(transaction).hold_off_until is not None
    asked = len(floor.oms.received)
    assert "Retry-After" in (a_sweeper(floor).dry_run().problem or "")
    assert len(floor.oms.received) == asked


@pytest.mark.parametrize("refusal", [answers(401), answers(302, Location="/elsewhere/")])
def test_a_list_that_was_refused_is_asked_for_again_though_no_package_is_known_to_probe_with(
    floor: Floor, clock: Clock, refusal: Fault
) -> None:
    packed(floor.oms, 73)
    floor.oms.script("list", refusal, refusal)
    for _ in range(2):
        assert swept(floor).problem is not None
        clock.turn(timedelta(seconds=30))
    assert swept(floor).problem is None
    with floor.store.reading() as transaction:
        assert brakes.read(transaction).breaker_opened_at is None
    settle(floor)
    assert floor.where(73) == ("shipped", None)


def test_a_list_that_alone_refuses_the_token_stops_nothing_else(floor: Floor, clock: Clock) -> None:
    packed(floor.oms, 73)
    floor.hint(73)
    floor.oms.always("list", answers(401))
    for _ in range(3):
        assert swept(floor).problem == "the list cannot be used: it does not accept OMS_TOKEN here (401)"
        clock.turn(sweep.RETRY_AFTER)
    with floor.store.reading() as transaction:
        assert brakes.read(transaction).breaker_opened_at is None
    settle(floor)
    assert floor.where(73) == ("shipped", None)


def test_a_token_that_is_refused_for_packages_too_opens_the_breaker(floor: Floor) -> None:
    packed(floor.oms, 73)
    floor.hint(73)
    for operation in ("list", "read"):
        floor.oms.always(operation, answers(401))
    swept(floor)
    with floor.store.reading() as transaction:
        found = brakes.read(transaction)
    assert (found.breaker_cause, found.breaker_package_id) == (brakes.TOKEN_REJECTED, 73)


def test_behind_a_breaker_that_a_command_opened_the_sweep_finds_a_package_to_probe_with(
    floor: Floor, clock: Clock
) -> None:
    packed(floor.oms, 73)
    floor.hint(73)
    floor.oms.script("command", answers(401))
    floor.look()
    floor.oms.cancel(73)
    packed(floor.oms, 74)
    assert "breaker open" in str(swept(floor).problem)
    settle(floor)
    clock.turn(timedelta(seconds=30))
    assert [one.package_id for one in swept(floor).found] == [74]
    with floor.store.reading() as transaction:
        assert brakes.read(transaction).breaker_opened_at is not None
    settle(floor)
    assert floor.where(74) == ("shipped", None)


def test_a_dry_run_tells_what_it_would_look_at_and_stores_nothing(floor: Floor) -> None:
    packed(floor.oms, 73, 74)
    found = a_sweeper(floor).dry_run().found
    assert [(one.package_id, one.why) for one in found] == [
        (73, "no webhook announced it"),
        (74, "no webhook announced it"),
    ]
    with floor.store.reading() as transaction:
        assert transaction.execute(sa.select(sa.func.count()).select_from(packages)).scalar() == 0


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b'{"results": {}}',
        b'{"results": [{"id": "73"}], "next": null}',
        b'{"results": [], "next": "http://127.0.0.2:1/api/v1/oms/packages/?page=2"}',
        json.dumps({"results": [{"id": 73, "state": {"enum_class": "OrderStatus", "enum_value": "500"}}]}).encode(),
    ],
)
def test_a_list_that_cannot_be_read_is_a_problem_and_never_an_end(floor: Floor, body: bytes) -> None:
    floor.oms.script("list", answers(200, body))
    assert swept(floor).problem is not None


def with_a_row_of_no_package(oms: FaultyOms, request: Request) -> Response:
    page = json.loads(oms.answer_well(request).body)
    return Response(200, json.dumps(page | {"results": [{"id": 2**53}, *page["results"]]}).encode())


def test_one_row_that_cannot_be_read_does_not_hide_the_others(floor: Floor, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "autoship")
    packed(floor.oms, 73, 74)
    floor.oms.always("list", with_a_row_of_no_package)
    done = swept(floor)
    assert (done.problem, [one.package_id for one in done.found]) == (None, [73, 74])
    assert "sweep.rows_unread" in caplog.messages


def test_a_hanging_list_gives_up_at_its_deadline(floor: Floor) -> None:
    floor.oms.script("list", hangs)
    assert swept(floor).problem == "the list was not answered: ReadTimeout"
