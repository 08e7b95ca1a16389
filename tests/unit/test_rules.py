"""Which packages are ours: what a rules file may say, and which rule decides."""

from __future__ import annotations

from datetime import timedelta

import pytest

from service.errors import RulesError
from service.rules import TEXT_FIELDS, YES_NO_FIELDS, Action, FieldMissing, Match, Rule, Rules, judge, parse
from service.snapshot import Fact

BAD_ACTION = 'action and default are "ship" or "skip", not {}'
NO_ACTION = 'line {}: a rule needs an action, "ship" or "skip"'
DEFAULT_MISSING = 'line 1: default = "ship" or "skip" is required when there are rules'


def a_rule(name: str = "rule", action: Action = "ship", **when: object) -> Rule:
    """A rule that matches where each named field has the given value, or one of the given list."""
    wanted = {field: frozenset(value if isinstance(value, list) else [value]) for field, value in when.items()}
    return Rule(name, wanted, action)


def a_file(*lines: str, default: str = 'default = "skip"') -> str:
    """A rules file with one named rule and these lines; the rule's first line of its own is line 4."""
    return "\n".join([default, "[[rule]]", 'name = "r"', *lines]) + "\n"


def problems(text: str) -> list[str]:
    with pytest.raises(RulesError) as refused:
        parse(text)
    assert refused.value.exit_code == 2
    assert str(refused.value) == "\n".join(refused.value.problems)
    return list(refused.value.problems)


# Judging


@pytest.mark.parametrize("default", ["ship", "skip"])
def test_where_no_rule_matches_the_default_decides(default: Action) -> None:
    rules = Rules((a_rule(channel_name="Shop"),), default)
    assert judge(rules, {"channel_name": "Market"}) == Match(default, None)
    assert judge(Rules(), {}) == Match("ship", None)


def test_the_first_rule_that_matches_wins() -> None:
    first, second = a_rule("1", "skip", channel_name="Shop"), a_rule("2", "ship", payment_type="cash")
    facts = {"channel_name": "Shop", "payment_type": "cash"}
    assert judge(Rules((first, second)), facts) == Match("skip", first)
    assert judge(Rules((second, first)), facts) == Match("ship", second)
    assert judge(Rules((first, second)), facts | {"channel_name": "Market"}) == Match("ship", second)


@pytest.mark.parametrize("channel", ["shop", "Shop ", "", None, False])
def test_another_value_than_the_listed_ones_does_not_match_and_null_is_a_value(channel: Fact) -> None:
    rule = a_rule(channel_name=["Shop", "Market"], has_invoice=True)
    assert judge(Rules((rule,), "skip"), {"channel_name": channel, "has_invoice": True}) == Match("skip")
    assert judge(Rules((rule,), "skip"), {"channel_name": "Market", "has_invoice": True}) == Match("ship", rule)


def test_a_missing_field_makes_the_package_wait_and_later_rules_are_not_tried() -> None:
    asks, later = a_rule("asks", channel_name="Shop", payment_type="cash", has_invoice=True), a_rule("later", "skip")
    assert judge(Rules((asks, later)), {"channel_name": "Shop"}) == FieldMissing(asks, "payment_type")
    assert judge(Rules((later, asks)), {}) == Match("skip", later)


def test_a_rule_one_field_contradicts_does_not_wait_for_another_that_is_missing() -> None:
    asks = a_rule(channel_name="Shop", payment_type="cash")
    assert judge(Rules((asks,), "skip"), {"payment_type": "card"}) == Match("skip")
    assert judge(Rules((asks,), "skip"), {"channel_name": "Market"}) == Match("skip")


# Reading the file


def test_a_file_is_read_whole_and_rules_keep_its_order() -> None:
    text = """
        default = "skip"

        [[rule]]
        name = "own couriers"
        when = { channel_name = ["Shop", "Mağaza"], stock_location_erp_code = ["9"], payment_type = ["cod"] }
        action = "ship"
        transition_id = 1000000000
        slug = "ship-without-integration"
        grace_s = 90

        [[rule]]
        name = "no invoice"
        action = "skip"
        grace_s = 0
        transition_id = 0
        [rule.when]
        has_invoice = false
        has_shipment = true

        [[rule]]
        name = "a rule needs only a name and an action"
        action = "ship"
    """
    couriers: dict[str, frozenset[Fact]] = {
        "channel_name": frozenset({"Shop", "Mağaza"}),
        "stock_location_erp_code": frozenset({"9"}),
        "payment_type": frozenset({"cod"}),
    }
    invoice: dict[str, frozenset[Fact]] = {"has_invoice": frozenset({False}), "has_shipment": frozenset({True})}
    assert parse(text) == Rules(
        (
            Rule("own couriers", couriers, "ship", 10**9, "ship-without-integration", timedelta(seconds=90)),
            Rule("no invoice", invoice, "skip", 0, None, timedelta(0)),
            Rule("a rule needs only a name and an action", {}, "ship", None, None, None),
        ),
        "skip",
    )


@pytest.mark.parametrize(
    ("text", "default"),
    [("", "ship"), ("# nothing yet\n", "ship"), ('default = "skip"', "skip"), ("rule = []", "ship")],
)
def test_a_file_without_rules_ships_everything_unless_it_says_otherwise(text: str, default: Action) -> None:
    assert parse(text) == Rules((), default)


# Problems


def test_a_file_that_is_not_toml_is_refused_with_the_place() -> None:
    [problem] = problems('default = "ship"\ndefault = "skip"\n')
    assert problem.startswith("not TOML: ")
    assert "line 2" in problem


@pytest.mark.parametrize("text", ["rule = [\n1,\n2", "rule = [\n1,\n2\n\n", "rule = [\n1,\n2 "])
def test_a_file_that_ends_too_soon_is_refused_with_its_last_line(text: str) -> None:
    [problem] = problems(text)
    assert problem.endswith("(at end of document, line 3)")


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 5000], ids=["many digits", "deep"])
def test_a_file_beyond_what_can_be_read_is_refused_like_one_that_is_not_toml(value: str) -> None:
    [problem] = problems(f"rule = {value}")
    assert problem.startswith("not TOML: ")


def test_all_problems_are_told_together_in_the_order_of_their_lines() -> None:
    text = a_file(
        "colour = 1",
        'when = { channel = ["Shop"] }',
        'action = "send"',
        "transition_id = -1",
        'slug = ""',
        "grace_s = 1.5",
        "taste = 1",
        default="default = true",
    )
    known = "channel_name, stock_location_erp_code, payment_type, has_shipment, has_invoice"
    assert problems(text) == [
        "line 1: " + BAD_ACTION.format(True),
        "line 4: unknown key 'colour'",
        f"line 5: unknown field 'channel'; known: {known}",
        "line 6: " + BAD_ACTION.format("'send'"),
        "line 7: transition_id must be a whole number from 0 to 1000000000",
        "line 8: slug must be a text",
        "line 9: grace_s must be a whole number from 0 to 1000000000",
        "line 10: unknown key 'taste'",
    ]


def test_a_default_is_required_where_there_are_rules_and_one_below_a_rule_is_none() -> None:
    assert problems(a_file('action = "ship"', default="")) == [DEFAULT_MISSING]
    below = a_file('action = "ship"', 'default = "ship"', default="")
    assert problems(below) == [DEFAULT_MISSING, "line 5: unknown key 'default'"]
    assert problems('\ndefault = "send"') == ["line 2: " + BAD_ACTION.format("'send'")]


@pytest.mark.parametrize(
    "rule", ['rule = "r"', "rule = 1", "rule = [1]", 'rule = [{ name = "r" }, 1]', '[rule]\nname = "r"']
)
def test_rules_in_another_shape_are_a_problem(rule: str) -> None:
    assert problems(f'default = "ship"\n{rule}') == ["line 2: write each rule as [[rule]]"]
    assert problems(rule) == ["line 1: write each rule as [[rule]]"]


def test_a_rule_without_name_or_action_is_a_problem_where_it_begins() -> None:
    text = 'default = "ship"\n\n[[rule]]\nwhen.has_invoice = true'
    assert problems(text) == ["line 3: a rule needs a name", NO_ACTION.format(3)]


@pytest.mark.parametrize("name", ['name = ""', "name = 7", 'name = ["r"]'])
def test_a_name_is_a_text_that_is_not_empty(name: str) -> None:
    text = f'default = "ship"\n\n[[rule]]\naction = "ship"\n{name}'
    assert problems(text) == ["line 5: name must be a text"]


@pytest.mark.parametrize("value", ["1", "[]", '"Shop"', '[{ channel_name = ["Shop"] }]', "true"])
def test_conditions_that_are_no_table_are_a_problem(value: str) -> None:
    assert problems(a_file('action = "ship"', f"when = {value}")) == ["line 5: when must be a table of fields"]


@pytest.mark.parametrize("field", TEXT_FIELDS)
@pytest.mark.parametrize("wanted", ['"Shop"', "[]", '["Shop", 1]', "true", "{}"])
def test_a_text_field_takes_a_list_of_texts(field: str, wanted: str) -> None:
    text = a_file('action = "ship"', f"when = {{ {field} = {wanted} }}")
    assert problems(text) == [f"line 5: {field} must be a list of texts"]


@pytest.mark.parametrize("field", YES_NO_FIELDS)
@pytest.mark.parametrize("wanted", ["1", '"true"', "[true]"])
def test_a_yes_or_no_field_takes_true_or_false(field: str, wanted: str) -> None:
    text = a_file('action = "ship"', f"when = {{ {field} = {wanted} }}")
    assert problems(text) == [f"line 5: {field} must be true or false"]


@pytest.mark.parametrize("key", ["transition_id", "grace_s"])
@pytest.mark.parametrize("value", ["-1", "1000000001", "1.0", '"1"', "true", "[]"])
def test_a_number_is_whole_and_one_that_can_be_stored(key: str, value: str) -> None:
    text = a_file('action = "ship"', f"{key} = {value}")
    assert problems(text) == [f"line 5: {key} must be a whole number from 0 to 1000000000"]


@pytest.mark.parametrize("slug", ['""', "1", "true", '["ship"]'])
def test_a_slug_is_a_text_that_is_not_empty(slug: str) -> None:
    assert problems(a_file('action = "ship"', f"slug = {slug}")) == ["line 5: slug must be a text"]


# Lines


def test_what_a_rule_lacks_is_told_where_it_begins_and_not_looked_for_in_the_next() -> None:
    text = a_file("", "[[rule]]", 'name = "next"', 'action = "ship"')
    assert problems(text) == [NO_ACTION.format(2)]
    text = '[[rule]]\naction = "ship"\n[[rule]]\nname = "s"\naction = "ship"'
    assert problems(text) == ["line 1: a rule needs a name", DEFAULT_MISSING]


@pytest.mark.parametrize("header", ["[[rule]]", "  [[ rule ]]", '[["rule"]]', "[['rule']] # the second"])
def test_keys_of_the_second_rule_are_not_looked_for_in_the_first(header: str) -> None:
    keys = ['name = "r"', "when = {}", "transition_id = 1", 'slug = "s"', "grace_s = 1", "action = 'ship'"]
    wrong = ["when = 1", "transition_id = ''", "slug = 1", "grace_s = -1", "action = 1"]
    text = "\n".join(["default = 'ship'", "[[rule]]", *keys, header, *wrong, *["[[rule]]", *keys]])
    assert [problem.split()[1:3] for problem in problems(text)] == [
        ["9:", "a"],
        ["10:", "when"],
        ["11:", "transition_id"],
        ["12:", "slug"],
        ["13:", "grace_s"],
        ["14:", "action"],
    ]


def test_conditions_in_a_table_of_their_own_are_not_looked_for_in_the_next_rule() -> None:
    following = ["[[rule]]", 'name = "s"', 'action = "ship"', "when = {}"]
    [problem] = problems(a_file('action = "ship"', "[rule.when]", "colour = 1", *following))
    assert problem.startswith("line 6: unknown field 'colour'")


@pytest.mark.parametrize(
    ("lines", "line"),
    [
        (["when = {has_invoice = 1}"], 5),
        (["when.has_shipment = true", "when.has_invoice = 1"], 6),
        (["[rule.when]", "has_shipment = true", "", "has_invoice = 1"], 8),
        (["[ rule . 'when' ]", '"has_invoice" = 1 # has_invoice'], 6),
        (["[rule.when.has_invoice]", "x = 1"], 5),
        (["when = {has_shipment = true, channel_name = [", '  "has_invoice",', "], has_invoice = 1}"], 5),
    ],
)
def test_a_condition_is_found_however_it_is_written(lines: list[str], line: int) -> None:
    assert problems(a_file('action = "ship"', *lines)) == [f"line {line}: has_invoice must be true or false"]


@pytest.mark.parametrize("key", ["name", "action", "slug", "rule"])
def test_a_condition_is_not_taken_for_a_key_of_its_rule_nor_one_for_the_other(key: str) -> None:
    [problem] = problems(a_file("slug = 's'", 'action = "ship"', f"when = {{{key} = 1}}"))
    assert problem.startswith(f"line 6: unknown field '{key}'")
    [problem] = problems(a_file('action = "ship"', "when.has_invoice = true", "has_invoice = true"))
    assert problem == "line 6: unknown key 'has_invoice'"


@pytest.mark.parametrize("line", ["  colour = 1", '"colour" = 1', "'colour' = 1", "colour.a = 1", "colour=1"])
def test_a_key_is_found_however_it_is_written_and_not_in_one_that_only_begins_or_ends_like_it(line: str) -> None:
    others = ["slug = 'colour'", "action = 'ship'"]
    assert problems(a_file(*others, line)) == ["line 6: unknown key 'colour'"]
    text = f"colours = 1\ncolour-less = 1\nthe-colour = 1\n{line}\n"
    assert problems(text) == [
        "line 1: unknown key 'colours'",
        "line 2: unknown key 'colour-less'",
        "line 3: unknown key 'the-colour'",
        "line 4: unknown key 'colour'",
    ]


def test_tables_that_are_no_rules_do_not_count_as_such() -> None:
    text = '[[colour]]\n[[rule]]\nname = "r"\naction = 1\n[taste]\nX = 1\n[X]\n'
    assert problems(text) == [
        DEFAULT_MISSING,
        "line 1: unknown key 'colour'",
        "line 4: " + BAD_ACTION.format(1),
        "line 5: unknown key 'taste'",
        "line 7: unknown key 'X'",
    ]


@pytest.mark.parametrize("opening", ["[colour]", "[[ colour ]]", '["a.c"]'])
def test_a_table_is_found_where_it_opens(opening: str) -> None:
    [problem] = problems(f'abc = {{}}\n{opening}\ncolour = "2"')[1:]
    assert problem.startswith("line 2: unknown key ")


@pytest.mark.parametrize("opening", ["rule = [", "rule = [\n", "rule=[\n  # {\n\n"])
def test_rules_written_as_one_list_are_found_where_each_begins(opening: str) -> None:
    text = f'default = "ship"\n{opening}' + '{ action = "ship", name = 5 },\n  {name = "b", when = {x = 1}},\n{},]'
    first, second, third, *last = problems(text)
    line = 2 + opening.count("\n")
    assert first == f"line {line}: name must be a text"
    assert second == NO_ACTION.format(line + 1)
    assert third.startswith(f"line {line + 1}: unknown field 'x'")
    assert last == [f"line {line + 2}: a rule needs a name", NO_ACTION.format(line + 2)]


def test_a_line_that_begins_with_a_brace_begins_no_rule_within_one() -> None:
    text = a_file("slug = [", "{},", "{}]", "[[rule]]", 'name = "s"')
    assert problems(text) == [NO_ACTION.format(2), "line 4: slug must be a text", NO_ACTION.format(7)]


@pytest.mark.parametrize("quotes", ['"""', "'''"])
def test_what_looks_like_a_header_inside_a_text_is_none(quotes: str) -> None:
    text = a_file(f"action = {quotes}\n[[rule]]\n{quotes}", "colour = 1", "[[rule]]", "slug = 's'", "action = 'skip'")
    assert problems(text) == [
        "line 4: " + BAD_ACTION.format(r"'[[rule]]\n'"),
        "line 7: unknown key 'colour'",
        "line 8: a rule needs a name",
    ]


def test_a_separator_inside_a_comment_is_no_new_line() -> None:
    assert problems("# one\u2028two\x85three\ncolour = 1") == ["line 2: unknown key 'colour'"]
