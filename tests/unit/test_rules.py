"""Which packages are ours: what a rules file may say, and which rule decides."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import ConfigurationError, RulesError
from service.rules import TEXT_FIELDS, YES_NO_FIELDS, Action, FieldMissing, Match, Rule, Rules, judge, parse
from service.snapshot import Fact

FIELDS = TEXT_FIELDS + YES_NO_FIELDS


def a_rule(name: str = "rule", action: Action = "ship", **when: object) -> Rule:
    """A rule that matches where each named field has the given value, or one of the given list."""
    wanted = {field: frozenset(value if isinstance(value, list) else [value]) for field, value in when.items()}
    return Rule(name, wanted, action)


def a_file(*lines: str, default: str = 'default = "skip"') -> str:
    """A rules file with one named rule and these lines; the rule's first line of its own is line 4."""
    return "\n".join([default, "[[rule]]", 'name = "r"', *lines]) + "\n"


def the_rule(*lines: str) -> Rule:
    """The only rule of a file with these lines."""
    [rule] = parse(a_file('action = "ship"', *lines)).rules
    return rule


def problems(text: str) -> list[str]:
    with pytest.raises(RulesError) as refused:
        parse(text)
    return sorted(refused.value.problems)


# Judging


def test_without_rules_every_package_is_ours() -> None:
    assert judge(Rules(), {}) == Match("ship", None)


@pytest.mark.parametrize("default", ["ship", "skip"])
def test_where_no_rule_matches_the_default_decides(default: Action) -> None:
    rules = Rules((a_rule(channel_name="Shop"),), default)
    assert judge(rules, {"channel_name": "Market"}) == Match(default, None)


def test_the_first_rule_that_matches_wins() -> None:
    first, second = a_rule("1", "skip", channel_name="Shop"), a_rule("2", "ship", payment_type="cash")
    facts = {"channel_name": "Shop", "payment_type": "cash"}
    assert judge(Rules((first, second)), facts) == Match("skip", first)
    assert judge(Rules((second, first)), facts) == Match("ship", second)


def test_all_fields_of_a_rule_must_match() -> None:
    rule = a_rule(channel_name="Shop", has_invoice=True)
    facts: list[dict[str, Fact]] = [
        {"channel_name": "Shop", "has_invoice": True},
        {"channel_name": "Shop", "has_invoice": False},
        {"channel_name": "Market", "has_invoice": True},
    ]
    verdicts = [judge(Rules((rule,), "skip"), one) for one in facts]
    assert verdicts == [Match("ship", rule), Match("skip"), Match("skip")]


@pytest.mark.parametrize("channel", ["Shop", "Market"])
def test_any_listed_value_of_a_field_matches(channel: str) -> None:
    rule = a_rule(channel_name=["Shop", "Market"])
    assert judge(Rules((rule,), "skip"), {"channel_name": channel}) == Match("ship", rule)


@pytest.mark.parametrize("channel", ["shop", "Shop ", "", None, False])
def test_another_value_than_the_listed_ones_does_not_match_and_null_is_a_value(channel: Fact) -> None:
    assert judge(Rules((a_rule(channel_name="Shop"),), "skip"), {"channel_name": channel}) == Match("skip")


def test_a_rule_without_conditions_matches_every_package() -> None:
    assert judge(Rules((a_rule(),), "skip"), {}) == Match("ship", a_rule())


def test_a_missing_field_makes_the_package_wait_and_later_rules_are_not_tried() -> None:
    asks, later = a_rule("asks", channel_name="Shop"), a_rule("later", "skip")
    assert judge(Rules((asks, later)), {}) == FieldMissing(asks, "channel_name")


def test_the_first_missing_field_of_the_rule_is_named() -> None:
    asks = a_rule(channel_name="Shop", payment_type="cash", has_invoice=True)
    assert judge(Rules((asks,)), {"channel_name": "Shop"}) == FieldMissing(asks, "payment_type")


def test_a_rule_one_field_contradicts_does_not_wait_for_another_that_is_missing() -> None:
    asks = a_rule(channel_name="Shop", payment_type="cash")
    assert judge(Rules((asks,), "skip"), {"payment_type": "card"}) == Match("skip")
    assert judge(Rules((asks,), "skip"), {"channel_name": "Market"}) == Match("skip")


def test_a_missing_field_asked_by_a_later_rule_does_not_matter_once_a_rule_matched() -> None:
    first, asks = a_rule("first"), a_rule("asks", "skip", channel_name="Shop")
    assert judge(Rules((first, asks)), {}) == Match("ship", first)


VALUES = {field: st.sampled_from(["a", "b", None]) for field in TEXT_FIELDS} | {
    field: st.booleans() for field in YES_NO_FIELDS
}
CONDITIONS = st.fixed_dictionaries(
    {},
    optional={field: st.frozensets(st.sampled_from(["a", "b"]), min_size=1) for field in TEXT_FIELDS}
    | {field: st.booleans().map(lambda value: frozenset({value})) for field in YES_NO_FIELDS},
)
RULES = st.builds(
    Rules,
    st.lists(st.builds(Rule, st.just("rule"), CONDITIONS, st.sampled_from(["ship", "skip"])), max_size=4).map(tuple),
    st.sampled_from(["ship", "skip"]),
)


def kleene_and(values: list[bool | None]) -> bool | None:
    """The conjunction in Kleene's logic of true, false and unknown."""
    if False in values:
        return False
    return None if None in values else True


@settings(max_examples=100, deadline=None)
@given(RULES, st.fixed_dictionaries({}, optional=VALUES))
def test_judging_is_first_match_in_three_valued_logic(rules: Rules, facts: Mapping[str, Any]) -> None:
    expected: Match | FieldMissing = Match(rules.default)
    for rule in rules.rules:
        truth = {field: (facts[field] in allowed if field in facts else None) for field, allowed in rule.when.items()}
        match kleene_and(list(truth.values())):
            case False:
                continue
            case True:
                expected = Match(rule.action, rule)
                break
            case None:
                expected = FieldMissing(rule, next(field for field, value in truth.items() if value is None))
                break
    assert judge(rules, facts) == expected


# Reading the file


def test_an_empty_file_ships_everything() -> None:
    assert parse("") == Rules((), "ship")
    assert parse("# nothing yet\n") == Rules((), "ship")


def test_a_default_alone_is_enough() -> None:
    assert parse('default = "skip"') == Rules((), "skip")


def test_a_file_is_read_whole() -> None:
    text = """
        default = "skip"

        [[rule]]
        name = "own couriers"
        when = { channel_name = ["Shop", "Mağaza"], stock_location_erp_code = ["9"], payment_type = ["cod"] }
        action = "ship"
        transition_id = 12
        slug = "ship-without-integration"
        grace_s = 90

        [[rule]]
        name = "no invoice"
        action = "skip"
        [rule.when]
        has_invoice = false
        has_shipment = true
    """
    assert parse(text) == Rules(
        (
            Rule(
                name="own couriers",
                when={
                    "channel_name": frozenset({"Shop", "Mağaza"}),
                    "stock_location_erp_code": frozenset({"9"}),
                    "payment_type": frozenset({"cod"}),
                },
                action="ship",
                transition_id=12,
                slug="ship-without-integration",
                grace=timedelta(seconds=90),
            ),
            Rule("no invoice", {"has_invoice": frozenset({False}), "has_shipment": frozenset({True})}, "skip"),
        ),
        "skip",
    )


def test_rules_keep_the_order_of_the_file() -> None:
    text = 'default = "ship"\n' + "".join(f'[[rule]]\nname = "{name}"\naction = "skip"\n' for name in "cab")
    assert [rule.name for rule in parse(text).rules] == ["c", "a", "b"]


def test_a_rule_needs_only_a_name_and_an_action() -> None:
    assert the_rule() == Rule("r", {}, "ship", None, None, None)


@pytest.mark.parametrize("number", [0, 1, 2**70])
def test_a_transition_id_is_any_whole_number_that_is_not_negative(number: int) -> None:
    assert the_rule(f"transition_id = {number}").transition_id == number


@pytest.mark.parametrize(("seconds", "grace"), [(0, timedelta(0)), (1, timedelta(seconds=1))])
def test_grace_is_in_seconds_and_none_of_it_is_not_nothing_said(seconds: int, grace: timedelta) -> None:
    assert the_rule(f"grace_s = {seconds}").grace == grace
    assert the_rule().grace is None


# Problems


def test_a_file_that_is_not_toml_is_refused_with_the_place() -> None:
    [problem] = problems('default = "ship"\ndefault = "skip"\n')
    assert problem.startswith("not TOML: ")
    assert "line 2" in problem


def test_a_rules_problem_is_a_configuration_problem() -> None:
    with pytest.raises(ConfigurationError) as refused:
        parse("a = 1\nb = 2\n")
    assert refused.value.exit_code == 2
    assert sorted(str(refused.value).split("\n")) == ["line 1: unknown key 'a'", "line 2: unknown key 'b'"]


def test_all_problems_are_told_together_each_with_its_line() -> None:
    text = a_file(
        "colour = 1",
        'when = { channel = ["Shop"] }',
        'action = "send"',
        "transition_id = -1",
        'slug = ""',
        "grace_s = 1.5",
        default="default = true",
    )
    known = "channel_name, stock_location_erp_code, payment_type, has_shipment, has_invoice"
    assert problems(text) == [
        'line 1: action and default are "ship" or "skip", not True',
        "line 4: unknown key 'colour'",
        f"line 5: unknown field 'channel'; known: {known}",
        'line 6: action and default are "ship" or "skip", not \'send\'',
        "line 7: transition_id must be a whole number, not negative",
        "line 8: slug must be a text",
        "line 9: grace_s must be a whole number, not negative",
    ]


def test_a_default_is_required_where_there_are_rules() -> None:
    required = 'line 1: default = "ship" or "skip" is required when there are rules'
    assert problems(a_file('action = "ship"', default="")) == [required]


def test_a_default_below_a_rule_belongs_to_that_rule_and_is_told_so() -> None:
    assert problems(a_file('action = "ship"', 'default = "ship"', default="")) == [
        'line 1: default = "ship" or "skip" is required when there are rules',
        "line 5: unknown key 'default'",
    ]


def test_a_wrong_default_is_a_problem_on_its_own_line() -> None:
    assert problems('# which packages\n\ndefault = "send"') == [
        'line 3: action and default are "ship" or "skip", not \'send\''
    ]


def test_an_unknown_key_at_the_top_is_a_problem() -> None:
    assert problems('\ndefaults = "ship"') == ["line 2: unknown key 'defaults'"]


@pytest.mark.parametrize("rule", ['rule = "r"', "rule = {}", "rule = 1", "rule = [1]", 'rule = [{ name = "r" }, 1]'])
def test_rules_in_another_shape_are_a_problem(rule: str) -> None:
    assert problems(f'default = "ship"\n{rule}') == ["line 2: write each rule as [[rule]]"]
    assert problems(rule) == ["line 1: write each rule as [[rule]]"]


def test_a_single_table_is_a_problem_too() -> None:
    assert problems('default = "ship"\n\n[rule]\nname = "r"') == ["line 3: write each rule as [[rule]]"]


@pytest.mark.parametrize("name", ["", 'name = ""', "name = 7", 'name = ["r"]', "name = true"])
def test_a_rule_without_a_name_is_a_problem_where_it_begins(name: str) -> None:
    text = f'default = "ship"\n\n[[rule]]\naction = "ship"\n{name}'
    assert problems(text) == ["line 3: a rule needs a name"]


@pytest.mark.parametrize("action", ["1", "true", '"Ship"', '""', "[]", "{}"])
def test_an_action_that_is_neither_ship_nor_skip_is_a_problem(action: str) -> None:
    [problem] = problems(a_file(f"action = {action}"))
    assert problem.startswith('line 4: action and default are "ship" or "skip", not ')


def test_an_action_that_is_missing_is_a_problem_where_the_rule_begins() -> None:
    assert problems(a_file()) == ['line 2: action and default are "ship" or "skip", not None']


def test_an_action_that_is_missing_is_not_looked_for_in_the_next_rule() -> None:
    text = a_file("", "[[rule]]", 'name = "next"', 'action = "ship"')
    assert problems(text) == ['line 2: action and default are "ship" or "skip", not None']


@pytest.mark.parametrize("when", ["1", "[]", '"Shop"', '[{ channel_name = ["Shop"] }]', "true"])
def test_conditions_that_are_no_table_are_a_problem(when: str) -> None:
    assert problems(a_file('action = "ship"', f"when = {when}")) == ["line 5: when must be a table of fields"]


@pytest.mark.parametrize("field", TEXT_FIELDS)
@pytest.mark.parametrize("wanted", ['"Shop"', "[]", "[1]", '["Shop", 1]', "true", "[true]", "{}"])
def test_a_text_field_takes_a_list_of_texts(field: str, wanted: str) -> None:
    text = a_file('action = "ship"', f"when = {{ {field} = {wanted} }}")
    assert problems(text) == [f"line 5: {field} must be a list of texts"]


@pytest.mark.parametrize("field", YES_NO_FIELDS)
@pytest.mark.parametrize("wanted", ["1", '"true"', "[true]", "[]"])
def test_a_yes_or_no_field_takes_true_or_false(field: str, wanted: str) -> None:
    text = a_file('action = "ship"', f"when = {{ {field} = {wanted} }}")
    assert problems(text) == [f"line 5: {field} must be true or false"]


@pytest.mark.parametrize("key", ["transition_id", "grace_s"])
@pytest.mark.parametrize("value", ["-1", "1.0", '"1"', "true", "false", "[]", "{}"])
def test_a_number_is_whole_and_not_negative(key: str, value: str) -> None:
    text = a_file('action = "ship"', f"{key} = {value}")
    assert problems(text) == [f"line 5: {key} must be a whole number, not negative"]


@pytest.mark.parametrize("slug", ['""', "1", "true", "[]", '["ship"]'])
def test_a_slug_is_a_text_that_is_not_empty(slug: str) -> None:
    assert problems(a_file('action = "ship"', f"slug = {slug}")) == ["line 5: slug must be a text"]


def test_grace_longer_than_any_calendar_is_a_problem_with_its_line() -> None:
    [problem] = problems(a_file('action = "ship"', "grace_s = 100000000000000"))
    assert problem.startswith("line 5: grace_s ")


@pytest.mark.parametrize("text", ["transition_id = " + "9" * 5000, "rule = " + "[" * 5000])
def test_a_file_beyond_what_can_be_read_is_refused_like_one_that_is_not_toml(text: str) -> None:
    assert len(problems(text)) == 1


# Lines


@pytest.mark.parametrize("header", ["[[rule]]", "  [[ rule ]]", '[["rule"]]', "[['rule']] # the second"])
def test_a_problem_of_the_second_rule_names_a_line_of_the_second_rule(header: str) -> None:
    text = a_file('action = "ship"', "", header, 'name = "second"', 'action = "send"')
    assert problems(text) == ['line 8: action and default are "ship" or "skip", not \'send\'']
    assert problems(text.replace('name = "second"', "")) == [
        "line 6: a rule needs a name",
        'line 8: action and default are "ship" or "skip", not \'send\'',
    ]


def test_keys_of_the_second_rule_are_not_looked_for_in_the_first() -> None:
    first = [
        "when = {}",
        'action = "ship"',
        "transition_id = 1",
        'slug = "ship"',
        "grace_s = 1",
        "colour = 1",
    ]
    second = [
        "[[rule]]",
        'name = "s"',
        "when = 1",
        'action = "ship"',
        'transition_id = ""',
        "slug = 1",
        "grace_s = -1",
    ]
    assert problems(a_file(*first, *second, "colour = 1")) == [
        "line 12: when must be a table of fields",
        "line 14: transition_id must be a whole number, not negative",
        "line 15: slug must be a text",
        "line 16: grace_s must be a whole number, not negative",
        "line 17: unknown key 'colour'",
        "line 9: unknown key 'colour'",
    ]


def test_conditions_in_a_table_of_their_own_are_not_looked_for_in_the_next_rule() -> None:
    text = a_file(
        'action = "ship"',
        "[rule.when]",
        "colour = 1",
        "[[rule]]",
        'name = "s"',
        'action = "ship"',
        "when = {}",
    )
    [problem] = problems(text)
    assert problem.startswith(("line 2: unknown field", "line 5: unknown field", "line 6: unknown field"))


def test_a_rule_may_begin_on_the_first_line() -> None:
    text = '[[rule]]\naction = "ship"\n[[rule]]\nname = "s"\naction = "ship"'
    assert problems(text) == [
        "line 1: a rule needs a name",
        'line 1: default = "ship" or "skip" is required when there are rules',
    ]


def test_a_key_on_the_first_line_is_found_there() -> None:
    assert problems("colour = 1\n[tint]\ncolour = 2") == [
        "line 1: unknown key 'colour'",
        "line 2: unknown key 'tint'",
    ]


def test_a_key_is_found_however_it_is_indented_quoted_or_opened() -> None:
    assert problems(a_file('action = "ship"', '  "colour" = 1')) == ["line 5: unknown key 'colour'"]
    assert problems(a_file('action = "ship"', "'colour' = 1")) == ["line 5: unknown key 'colour'"]
    assert problems('default = "ship"\n\n[colour]\na = 1') == ["line 3: unknown key 'colour'"]
    assert problems('default = "ship"\n\n[[ colour ]]') == ["line 3: unknown key 'colour'"]


def test_a_key_is_not_found_in_one_that_only_begins_or_ends_like_it() -> None:
    text = 'default = "ship"\n[[rule]]\nname = "r"\nslug = "action"\naction = "send"'
    assert problems(text) == ['line 5: action and default are "ship" or "skip", not \'send\'']
    assert problems("colours = 1\ncolour = 2\nmy-colour = 3") == [
        "line 1: unknown key 'colours'",
        "line 2: unknown key 'colour'",
        "line 3: unknown key 'my-colour'",
    ]


def test_a_key_with_special_characters_is_found_as_it_is_written() -> None:
    assert problems('abc = 1\n"a.c" = 2') == ["line 1: unknown key 'abc'", "line 2: unknown key 'a.c'"]


def test_a_rule_written_inside_a_list_is_placed_at_the_first_line() -> None:
    assert problems('default = "ship"\nrule = [{ action = "ship" }]') == ["line 1: a rule needs a name"]


def test_a_separator_inside_a_comment_is_no_new_line() -> None:
    assert problems("# one\u2028two\x85three\ncolour = 1") == ["line 2: unknown key 'colour'"]
