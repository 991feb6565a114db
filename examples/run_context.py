"""A run from its beginning to its end, on two servers: what it knows outlives the server that runs it.

What it shows: `begin`, what a child inherits, steps, `checkpoint`, `pause` and `resume`, and what others read of it.
What to type:   python examples/run_context.py
"""

import asyncio

import holdfast


async def main() -> None:
    """A report needs a survey; the survey is begun here, paused, and ended on another server."""
    async with holdfast.connect() as here, holdfast.connect() as there:
        async with here.runs.begin("report", {"topic": "the leak"}, swarm_id="plant") as report:
            report.context["site"] = "north"
            report.context.set("model", "k-17", mutable=False)

            survey = await here.runs.begin("survey", {"valves": 3}, parent=report)  # PostgreSQL has it: it can be found
            print("inherited, and only to be read:", dict(survey.context))

            async with survey.step("look") as step:  # what the step changed is kept when it ends
                survey.context["pressure"] = [4.1, 4.0, 1.2]
                survey.context["site"] = "north, hall 2"  # the survey's own from now on
                step.result = "valve 2 is suspect"
            first = await survey.checkpoint()  # costs what changed, however long the run is
            survey.context.intermediate["drafts"] = 2
            await survey.pause()  # all is in PostgreSQL, and nobody runs it

            paused = await there.runs.list(swarm_id="plant", status="paused")  # `orphaned=True`: whose server has died
            async with there.runs.resume(paused[0].id) as resumed:
                print("lost:", resumed.lost.steps, "steps,", resumed.lost.seconds, "seconds")
                async with resumed.step("confirm"):
                    resumed.context["culprit"] = f"valve {resumed.context.inputs['valves'] - 1}"
            # At the end of its block a run is completed; after an exception it is failed.

            try:
                survey.context["pressure"] = []
                await survey.save()
            except holdfast.RunOver as fault:
                print("here it is over:", fault)

            done = await here.runs.get(survey.id, consistency=holdfast.Consistency.STRONG)
            assert done is not None
            report.context["culprit"] = done.state.variables["culprit"].value
            print(done.run.status, "with steps", list(done.state.steps))
            print("snapshots:", [each.id.rpartition("/")[2] for each in await here.runs.history(survey.id)])
            changed = await here.runs.diff(survey.id, first)
            print("since the checkpoint:", list(changed["variables"].added), list(changed["steps"].added))
        assert report.context["site"] == "north"  # a child changes nothing of its parent


if __name__ == "__main__":
    asyncio.run(main())
