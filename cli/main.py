"""The command `drift`: the local stack, the demo, and jobs."""

from cli.commands import jobs, recorded, setup, stack, study, verify
from cli.console import EXIT_CODES, Commands

app = Commands(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__, epilog=EXIT_CODES)

for command in (stack.up, stack.down, stack.status, stack.demo, verify.verify, setup.init, setup.doctor):
    app.command()(command)
app.command("jobs")(jobs.list_jobs)
for command in (jobs.submit, jobs.show, jobs.watch, jobs.cancel, jobs.pause, jobs.resume):
    app.command()(command)
for command in (recorded.report, recorded.export, recorded.reweight, recorded.presets, study.study):
    app.command()(command)

if __name__ == "__main__":
    app()
