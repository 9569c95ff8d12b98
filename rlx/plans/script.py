"""The batch script of a job array: bash that a person can read, change and submit again.

1. Slurm signals the batch shell alone before the time limit (`--signal=B:USR1@<seconds>`), and everything of the job
   when it is cancelled, preempted or requeued. bash handles a signal only when the program in its foreground ends, so
   rlx runs in the background, and the shell passes signals on. It looks for the program's end once a second: a signal
   ends bash's `wait` early, and the program's own exit code is then lost now and then.
2. rlx saves its state and ends with 75. Nobody else starts the task again when it was stopped for its time limit, or by
   a preemption that cancels, so the script does; Slurm does it after `scontrol requeue`, a preemption that requeues,
   and the loss of a node; and nobody should after `scancel`. Which of them it was, only Slurm knows.
3. These lines hold under `set -eu` too, which a site's setup may say. scontrol is asked a few times, since a controller
   may just be restarted, but not for longer than Slurm's KillWait, 30 s as a rule.
4. A task is requeued by `<array>_<task>`: one task of an array has the array's own number as its SLURM_JOB_ID, and
   requeueing that would start all of them again.

Tried with Slurm 22.05: the time limit, also one reached while the state was saved; preemption by requeueing and by
cancelling; scancel, scontrol requeue, a node set down, and signals before the program was there.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path

BODY = """\
task=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID

child= asked=
forward() {
    asked=$1
    [ -z "$child" ] || kill -s "$1" "$child" 2>/dev/null || true
}
trap 'forward USR1' USR1
trap 'forward TERM' TERM

ask() { # scontrol, which may not answer at once
    for pause in 3 3 3 3 0; do
        ! scontrol "$@" || return 0
        sleep $pause || true
    done
    false
}

stopped_by_slurm() { # for a reason after which Slurm does not start the task again by itself
    case $(ask --oneliner show job "$task") in
        *" JobState=RUNNING "*) [ "$asked" = USR1 ] ;; # the time limit is near
        *" Reason=TimeLimit "*) ;;                     # and was reached meanwhile
        *" PreemptTime=2"*) ;;                         # preempted by cancelling
        *) false ;;                                    # cancelled, or requeued already
    esac
}

@program &
child=$!
[ -z "$asked" ] || kill -s "$asked" "$child" || true # what came before there was a program

while kill -0 "$child" 2>/dev/null; do sleep 1 || true; done
code=0
wait "$child" || code=$?
child=

[ "$code" -le 128 ] || echo "rlx was ended by signal $((code - 128))"
case $asked$code in USR1138 | TERM143) code=75 ;; esac # it was stopped before it could hear of it: nothing is lost
if [ "$code" = 75 ] && stopped_by_slurm; then
    echo "stopped by Slurm: $task goes back into the queue"
    ask requeue "$task" || echo "Slurm did not take it: python -m rlx.plans retry goes on from here"
fi
exit "$code"
"""


def batch_script(title: str, options: Sequence[str], setup: Sequence[str], command: str, path: Path) -> str:
    """The whole text.

    Args:
        title: what it is, in a line.
        options: of sbatch, such as `--time=1:00:00`.
        setup: commands of the shell before the program; one that fails ends the task.
        command: the program with its arguments, as a shell reads it.
        path: where the script is.
    """
    lines = ["#!/bin/bash", f"# {title}", f"# Written by rlx. To submit it again: sbatch {shlex.quote(str(path))}"]
    lines += [f"#SBATCH {option}" for option in options]  # before the first command, or Slurm passes over them
    checked = ["set -e", *setup, "set +e"] if setup else []
    return "\n".join([*lines, "", *checked, BODY.replace("@program", command)])
