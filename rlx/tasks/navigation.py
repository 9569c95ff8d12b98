"""Navigation: follow given problem states by actions, and say which hidden states the actions lead through.

Source: RL-Wall, "Decomposing Elements of Problem Solving: What 'Math' Does RL Teach?" (arXiv 2505.22756, the
solution-tree task, and github.com/cfpark00/RL-Wall, synthetic/make_data_synthetic_v5.ipynb).

V actions, states, problem states and contexts. Fixed tables say which state follows a state and an action (any), and
which problem state follows a problem state and an action (a permutation, so two problem states in a row name their
action). The right action is read off the problem states; in biased training data a context and a state suggest it
too, and held-out data do not bear that out. The paper's numbers are `values=20 min_actions=5 max_actions=10
irrelevant=10` (`values=10` and no irrelevant ones earlier), with `train_draws=uniform train_examples=128` for RL. The
defaults are a setting for a CPU: 4 layers of width 64, a token a word, solve all of `train` after 1000 steps of 64
problems, and half of `test`; with 2 layers, or a token a character, that many steps do not do.

Where sources differ, or leave a choice, this file does:

1. The tables come from `tables_seed`: part of the setting, not of the stream. Problems do not depend on `question`,
   `irrelevant` or, where draws are uniform, `concentration`.
2. `val` and `test` are always uniform in actions and contexts; `train_draws` says what `train` is. Upstream draws test
   problems anew; here a problem is of one split by a hash of its actions. So the same plan under other problem states,
   first states, contexts or irrelevant values is in the same split too, whichever question is asked. Problems of
   one name have one answer: the first state with the problem states (where they are given, with the actions).
3. A blank follows every letter and number, the last included, as upstream (whose `<pad>` ends a text): with `words()`
   each is a token, and an answer may go without its last blank. Numbers are whole words, `S 1 2` is not `S 12 `.
4. The paper speaks of planning, execution and verification. Here they are measures of a walk, `plan` (all actions are
   right) and `execute` (each state follows from the one and the action written before it, whatever the plan), beside
   `prefix` (share of steps that are right before the first mistake) and `shortcut` (share of the actions that the
   state written before and the context suggest under biased draws: the likeliest of c[a, C] * pi[S, a]).
5. They are also questions of their own, our choice: `question=plan` asks for the actions, `execute` gives them and
   asks for the states, `judge` gives a walk, right in every second example, else with one wrong action (and the states
   that follow from it) or one wrong state (and the states that follow from that). A prompt goes on from the text of
   the question before it, so a model's own answer can be put in its place.
6. A walk with a state that does not follow is illegal; a legal one with other actions is wrong.

Worked example with 2 actions and 2 irrelevant values (tables where action 7 leads from problem state 3 to 4 and from
state 9 to 2, action 5 from 4 to 3 and from 2 to 3); each solution follows the last colon:

    solve    S 9 P 3 C 6 P 4 C 0 P 3 I 1 I 4 : S 9 A 7 S 2 A 5 S 3
    plan     S 9 P 3 C 6 P 4 C 0 P 3 I 1 I 4 plan : A 7 A 5
    execute  S 9 P 3 C 6 P 4 C 0 P 3 I 1 I 4 plan : A 7 A 5 execute : S 9 S 2 S 3
    judge    S 9 P 3 C 6 P 4 C 0 P 3 I 1 I 4 : S 9 A 7 S 2 A 5 S 3 judge : yes
"""

import math
from dataclasses import dataclass
from enum import Enum

from rlx.errors import ConfigError
from rlx.options import option
from rlx.tasks.base import Sized, TaskConfig
from rlx.tasks.navigation_problems import BLOCK, Problem, Space, draw_block, tables_of
from rlx.tasks.navigation_questions import QUESTIONS, Question, Truth
from rlx.types import Example, Split, Verdict

LETTERS = "SPCAI:"
BANDS = (0.1, 0.01, 0.001)
"""Where the bands of `seen` begin."""


class Draws(Enum):
    """How actions and contexts are drawn: by the tables' shares, or all alike."""

    biased = "biased"
    uniform = "uniform"


@option("task", "navigation")
@dataclass(kw_only=True, slots=True)
class NavigationConfig(TaskConfig):
    """Solution-tree navigation: plan by problem states, execute by hidden dynamics."""

    values: int = 10
    """Different actions there are, 2 to 100; as many states, problem states and contexts."""
    min_actions: int = 5
    """Fewest actions of a problem."""
    max_actions: int = 6
    """Most actions of a problem, itself included, at most 100; each number is equally likely."""
    irrelevant: int = 0
    """Random values added to the prompt that the answer does not depend on, 0 to 100."""
    concentration: float = 0.3
    """How even biased actions and contexts are (Dirichlet), 0.01 to 1000: the smaller, the stronger the false cue."""
    tables_seed: int = 0
    """Seed of the tables."""
    train_draws: Draws = Draws.biased
    """Actions and contexts of `train`: biased (they suggest each other) or uniform, as held-out ones always are."""
    question: Question = Question.solve
    """What is asked: solve (states and actions), plan (actions), execute (states of given actions), judge (a walk)."""

    def __post_init__(self) -> None:
        TaskConfig.__post_init__(self)
        if not 2 <= self.values <= 100:
            raise ConfigError(f"task.values must be 2 to 100, got {self.values}; try task.values=10")
        if not 1 <= self.min_actions <= self.max_actions <= 100:
            raise ConfigError(
                "task actions need 1 <= min_actions <= max_actions <= 100, "
                f"got {self.min_actions} and {self.max_actions}; try task.min_actions=5 task.max_actions=6"
            )
        if not 0 <= self.irrelevant <= 100:
            raise ConfigError(f"task.irrelevant must be 0 to 100, got {self.irrelevant}; try task.irrelevant=10")
        if not 0.01 <= self.concentration <= 1000:
            raise ConfigError(
                f"task.concentration must be 0.01 to 1000, got {self.concentration}; try task.concentration=0.3"
            )

    def build(self) -> "Navigation":
        return Navigation(self)


class Navigation(Sized):
    """Problems of one setting, their solutions and their verifier."""

    bounded = True

    def __init__(self, config: NavigationConfig) -> None:
        super().__init__(config)
        self.config = config
        self.space = Space(
            values=config.values,
            min_actions=config.min_actions,
            max_actions=config.max_actions,
            irrelevant=config.irrelevant,
            concentration=config.concentration,
            tables_seed=config.tables_seed,
            biased=config.train_draws is Draws.biased,
        )
        self.tables = tables_of(self.space)
        self.question = QUESTIONS[config.question](self.tables)
        self.baseline = self.question.baseline
        digits = len(str(config.values - 1))
        self.longest = 2 * (3 + digits) * (2 * config.max_actions + 1)
        """Characters above which no text is read: about twice the longest solution."""

    def example(self, split: Split, index: int) -> Example:
        """The example at `index`: same arguments, same example.

        Raises:
            IndexError: `index` is negative or not below the split's size.
            ConfigError: (almost) no problems of this setting are in the split.
        """
        seed = self.seed_at(split, index)
        problem = draw_block(self.space, split, seed, index // BLOCK)[index % BLOCK]
        question = self.question
        return Example(
            id=f"navigation/{question.name(problem)}",
            prompt=question.prompt(problem),
            solution=question.solution(problem),
            truth=Truth(problem.states[0], problem.problems, problem.contexts, question.answer(problem)),
            difficulty={"actions": len(problem.actions), "seen": self._seen(problem), **question.difficulty(problem)},
        )

    def verify(self, example: Example, completion: str) -> Verdict:
        """What `completion` is: correct, wrong (other actions, another number of them), illegal (a state that does not
        follow from what is written before it) or malformed.

        Text longer than any solution can be is malformed unread.
        """
        if len(completion) > self.longest:
            return self.question.malformed(f"longer than {self.longest} characters")
        return self.question.verify(Truth(*example.truth), completion)

    def chance(self, example: Example) -> float:
        """Walks, actions and states: V^-n, one of those with n actions (and states that follow, or the first state
        given); a judgement: 1/2."""
        return self.question.chance(Truth(*example.truth))

    def guess(self, example: Example) -> str:
        """What the solver of `baseline` writes."""
        return self.question.guess(Truth(*example.truth))

    def words(self) -> list[str]:
        """Words that prompts and solutions are made of, each with the blank after it: 6 letters and marks, V numbers,
        and the words of the question."""
        numbers = map(str, range(self.config.values))
        return [f"{word} " for word in (*LETTERS, *numbers, *self.question.words)]

    def _seen(self, problem: Problem) -> str:
        """The band of how likely the actions are under biased draws: the geometric mean of their probabilities."""
        logs = self.tables.action_logs
        pairs = zip(problem.states, problem.actions, strict=False)
        mean = math.exp(math.fsum(logs[state][action] for state, action in pairs) / len(problem.actions))
        above = next((band for band in BANDS if mean >= band), 0)
        below = {0: BANDS[-1], **dict(zip(BANDS, (1, *BANDS), strict=False))}[above]
        return f"{above}-{below}"
