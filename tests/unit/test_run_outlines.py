"""What is told of a run to people: where its variables go, and which did not."""

from __future__ import annotations

import io

from rich.console import Console

from holdfast.cli.runs.outlines import difference_lines, shown_run
from holdfast.cli.runs.printing import print_run
from holdfast.documents import ContextVariable, ExportDeclaration, RefusedExport, Run
from holdfast.run_context.changes import ContextState
from holdfast.run_context.differences import difference


def declared(*destinations: str) -> list[ExportDeclaration]:
    """Declarations of a variable."""
    return [ExportDeclaration(key="x", destination=each) for each in destinations]


def test_exports_and_refusals_are_shown_without_values() -> None:
    """Each destination, and why something did not leave."""
    state = ContextState(
        variables={"x": ContextVariable(key="x", value="hush", sensitivity="secret")},
        exports={"x": declared("parent_context", "blackboard")},
    )
    refused = [RefusedExport(key="x", destination="blackboard", reason="it is secret")]
    shown = shown_run("r1", Run(routine_id="search", refused_exports=refused), state, at=None, most=10)
    assert shown.exports == {"x": ["parent_context", "blackboard"]}
    out = io.StringIO()
    print_run(shown, Console(file=out, width=200, force_terminal=True, no_color=True), json=False)
    text = out.getvalue()
    assert "exports: x to parent_context and blackboard" in text
    assert "not exported: x to blackboard: it is secret" in text
    assert "hush" not in text


def test_what_is_declared_anew_is_a_difference() -> None:
    """Told by the destinations; of another list only that it has changed."""
    before = ContextState(exports={"x": declared("blackboard")}, intermediate={"y": [1]})
    after = ContextState(exports={"x": declared("blackboard", "parent_context")}, intermediate={"y": [2]})
    lines = {(each.section, each.before, each.after) for each in difference_lines(difference(before, after))}
    assert lines == {("exports", "blackboard", "blackboard, parent_context"), ("intermediate", None, None)}
