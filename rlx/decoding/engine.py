"""The rollout engine: prompts in, completions with their log-probabilities out.

1. One prefill per prompt; its state is copied to the prompt's samples.
2. Continuous batching: `decode.rows` rows are decoded side by side in a cache that is allocated once. A row that ended
   is idle until `REFILL_SHARE` of the rows are, and then takes the next sample. When no sample waits, idle rows are
   dropped as soon as fewer than `ALIVE_SHARE` of the rows are alive.
3. Slot s of a row holds position s, so prompts are padded on the right: what a padded slot holds, or what a former
   sample of the row left, is never seen before it is overwritten.
4. Every row draws from its own key (`uniforms`), so its sample does not depend on its neighbours (up to the last
   bits of the logits, which matrix products of another shape may round differently).
5. Under autocast the linear layers' weights are cast once a call, into a copy, not at every token; the rest stays in
   float32, as in the trainer's autocast. The cache is in autocast's dtype. Adapters are added to the weights of a copy.
6. A model that embeds coupled positions is given the ids of each prompt and of a continuation (the task's solution);
   what is longer has one more than the largest of them. Where the model predicts ids, the prompt's are given, and each
   token is fed with the likeliest. Ids are no draw of their own: a completion's probability is that of its tokens given
   the ids that were fed, which are written down.
7. `compile=True` compiles a step for few numbers of rows and slots: `decode.rows`, or a half, a quarter, ... of them
   where those are enough, and quarters of the cache's length, in multiples of what a vector register holds. Recorded
   steps, and those in bf16 on a CPU, go by eighths.
8. A step is the same work whatever rows are alive: idle ones are passed and drawn for too, and written to a row of the
   output that is thrown away. So nothing is read back between a step's operations: on a GPU it is recorded
   (`rlx.decoding.graphs`), in tensors that are kept from call to call, and rows are looked at every `POLL` steps.
9. In an interaction (`Exchange`) a turn ends with the end mark, a token that ends turns, or its budget. What is then
   answered is fed to the row one token a step, through the same step that samples for its neighbours: at the widths
   of a rollout that costs what a pass of its own would, and leaves rows independent of each other.
10. Which samples run is a scheduler's to say (`rlx.decoding.scheduling`). With decode.scheduler=trail and a network
   that has learnt lengths, up to `decode.rows` prompts are passed at once, so that the shortest of their samples begin
   first; and whenever rows are looked at, running ones are set aside for shorter ones that wait. What is set aside lies
   on a shelf (`shelf_rows`), a cache that is allocated once a call, and comes back as it was: memory
   grows by that share and the prompts' states, and where the shelf is full nobody yields.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from rlx.batches import Extent
from rlx.decoding.base import DecodeConfig, Scheduling
from rlx.decoding.completions import Completions, Exchange, empty
from rlx.decoding.drawing import draw
from rlx.decoding.graphs import Graphs, cuda_graphs
from rlx.decoding.lengths import LengthProbe, middle_layer
from rlx.decoding.memory import Decoding, check_room
from rlx.decoding.scheduling import Job, shelf_rows
from rlx.decoding.state import Guide, State
from rlx.decoding.uniforms import uniforms
from rlx.decoding.waiting import Taken, Waiting, autocast_dtype, chosen_experts
from rlx.errors import DivergedError, Stopped
from rlx.nn.cache import Cache
from rlx.nn.compiled import compiled, halved, roomy, rounded
from rlx.nn.decoder import Decoder
from rlx.nn.experts import routed_layers
from rlx.nn.lora import folded, is_adapted, without_adapters
from rlx.nn.rows import Rows

ALIVE_SHARE = 0.75
"""Rows are compacted when no sample waits and fewer than this share of them is alive."""
REFILL_SHARE = 0.125
"""Rows take new samples when this share of them is idle: filling one at a time would copy states all the time."""
POLL = 8
"""Steps between looks at which rows ended, on a GPU, where a look waits for it."""
SMALLEST_ROWS = 32
"""Rows that a compiled or recorded step has at least."""
SLOT_UNIT = 32
"""Slots that a compiled or recorded step attends are a multiple: as many numbers of bf16 as a vector register of 512
bits holds."""

SLOT_PARTS = 8
"""Parts of the cache's length that a recorded step, and an uncompiled one in bf16 on a CPU, attends so many of."""


def never() -> bool:
    """The stop flag of who cannot be stopped."""
    return False


class Engine:
    """Draws completions from a decoder.

    Args:
        model: the decoder; the weights it has at the call are used.
        end_id: the end mark's token id.
        pad_id: the id that fills unused places.
        stop: polled between decode steps; True abandons the call with `Stopped`.
        compile: compile the decode step; seconds at the first call of a size, and shorter steps.
        graphs: records steps; None: CUDA graphs where the model is on a GPU, else none.
        lengths: predicts how long samples will be, for decode.scheduler=trail; None: nothing is known of that.
    """

    def __init__(
        self,
        model: Decoder,
        *,
        end_id: int,
        pad_id: int,
        stop: Callable[[], bool] = never,
        compile: bool = False,
        graphs: Graphs | None = None,
        lengths: LengthProbe | None = None,
    ) -> None:
        self.model, self.end_id, self.pad_id, self.stop = model, end_id, pad_id, stop
        self.lengths = lengths
        self._logits = compiled(_next_logits) if compile else _next_logits
        self._logits_and_routing = compiled(_next_logits_and_routing) if compile else _next_logits_and_routing
        self._logits_and_state = compiled(_next_logits_and_state) if compile else _next_logits_and_state
        self._compile, self._graphs = compile, graphs
        self.needed = 0
        """Bytes that the largest call was told to take."""
        self.polled = POLL if model.embed.weight.device.type == "cuda" else 1
        """Steps between looks at which rows ended."""
        self._held: tuple[State, Completions] | None = None
        """What recorded steps read and write."""
        self._copies: dict[torch.dtype | None, Decoder] = {}

    @torch.no_grad()
    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        keys: Sequence[int],
        samples: int,
        decode: DecodeConfig,
        places: Sequence[Sequence[int]] | None = None,
        routing: bool = False,
        exchange: Exchange | None = None,
    ) -> Completions:
        """Draw `samples` completions of every prompt (token ids); `keys` (int64) are the prompts' random keys, and
        `routing` asks for the experts that were chosen.

        `places` are the coupled positions of each prompt and of a continuation, for a model that embeds them; such a
        model does not interact. `exchange` answers turns; decode.max_tokens is then the most of a whole dialogue.

        Raises:
            Stopped: `stop` became true; nothing was changed.
            DivergedError: the model gives NaN.
            ConfigError: there is not enough memory; says what would fit.
        """
        device = self.model.embed.weight.device
        count = len(prompts) * samples
        if not prompts:
            return empty(0, decode.max_tokens, self.pad_id, device).rows(0)
        if device.type == "cuda" and self._graphs is None:
            self._graphs = cuda_graphs()
        longest = max(len(prompt) for prompt in prompts)
        self.check_room(len(prompts), samples, longest, decode, routing=routing)
        was_training = self.model.training
        self.model.eval()
        try:
            model = self._weights()
            state, out = self._room(model, prompts, samples, decode, routing=routing)
            if self.model.places is not None:
                assert places is not None, "a model with coupled positions needs those of the prompts"
                state.guide = Guide(places, samples, self.model.places.most, device)
            if exchange is not None:
                state.listen(exchange)
            self._fill_out(model, state, out, prompts, keys, samples, decode)
        finally:
            self.model.train(was_training)
        out = out.rows(count)
        if not torch.isfinite(out.logprobs).all():
            self._let_go()  # no later call may meet what is not a number
            raise DivergedError(
                "the model's probabilities are not finite (NaN): its weights have diverged", part="probabilities"
            )
        return out

    @property
    def unrecorded(self) -> str:
        """Why steps are not recorded, where they should be; empty where they are."""
        return "" if self._graphs is None else self._graphs.refused

    def check_room(
        self, prompts: int, samples: int, longest: int, decode: DecodeConfig, *, routing: bool = False
    ) -> None:
        """Look whether a call has room in memory, once for each that is larger than those before.

        Raises:
            ConfigError: it has not; says what would fit.
        """
        device = self.model.embed.weight.device
        dtype = autocast_dtype(device)
        copied = (dtype is not None or is_adapted(self.model)) and dtype not in self._copies
        call = Decoding(
            prompts=prompts,
            samples=samples,
            longest=longest,
            decode=decode,
            dtype=dtype,
            routing=routing,
            ranks=self.lengths is not None and decode.scheduler is Scheduling.trail,
            copied=copied,
            rows_of=self._enough,
            length_of=self._length,
            kept_sizes=SLOT_PARTS if device.type == "cpu" and dtype is not None and not self._compile else 0,
        )
        if (needed := call.bytes(self.model)) > self.needed:
            check_room(self.model, call)
            self.needed = needed

    def _room(
        self,
        model: Decoder,
        prompts: Sequence[Sequence[int]],
        samples: int,
        decode: DecodeConfig,
        *,
        routing: bool,
    ) -> tuple[State, Completions]:
        """Idle rows, and an empty output; where steps are recorded those of the call before, if they are enough."""
        device, count = model.embed.weight.device, len(prompts) * samples
        length = self._length(max(len(prompt) for prompt in prompts) + decode.max_tokens)
        dtype, rows = autocast_dtype(device), self._enough(decode.rows, count)
        watched = self.lengths.width if self.lengths is not None and decode.scheduler is Scheduling.trail else 0
        if self._held is not None:
            state, out = self._held
            fits = state.holds(rows, length, dtype) and state.looked.shape[1] == watched
            if fits and out.holds(count, decode.max_tokens, routing=routing):
                state.alive.zero_()
                out.clear(self.pad_id)
                return state.first(rows), out if routing else replace(out, routing=None)
            del state, out
            self._let_go()
        recorded = self._graphs is not None and self.model.places is None
        out = empty(count, decode.max_tokens, self.pad_id, device)
        if routing:
            layers = routed_layers(self.model)
            shape = (count + 1, length, len(layers), layers[0].top_k)
            out.routing = torch.full(shape, -1, dtype=torch.int16, device=device)
        if self.model.places is not None:
            out.places = torch.zeros_like(out.tokens)
        cache = model.new_cache(rows, length, dtype=dtype)
        state = State.empty(
            cache, rows, unread=count, vocab=model.vocab_size, device=device, dtype=dtype, watched=watched
        )
        if recorded:
            self._held = state, out
        return state.first(rows), out

    def _let_go(self) -> None:
        """Keep nothing for recorded steps, nor the steps."""
        self._held = None
        if self._graphs is not None:
            self._graphs.clear()

    def _length(self, needed: int) -> int:
        """Slots of a cache for so many: where steps are made for few sizes, one of few."""
        return roomy(needed, SLOT_UNIT) if self._in_sizes else needed

    @property
    def _in_sizes(self) -> bool:
        """Steps are made for few numbers of rows and slots: those that are compiled or recorded, and products in bf16
        on a CPU, whose library keeps some MB of work space for each size that it met (400 MB after 64 steps)."""
        return self._compile or self._graphs is not None or autocast_dtype(self.model.embed.weight.device) is not None

    def _fill_out(
        self,
        model: Decoder,
        state: State,
        out: Completions,
        prompts: Sequence[Sequence[int]],
        keys: Sequence[int],
        samples: int,
        decode: DecodeConfig,
    ) -> None:
        device, count = out.tokens.device, len(prompts) * samples
        waiting = Waiting(
            model,
            prompts,
            keys,
            samples,
            self.pad_id,
            guide=state.guide,
            decode=decode,
            lengths=self.lengths,
            routing=out.routing is not None,
        )
        state.forecast = waiting.forecast
        aside = shelf_rows(len(state.place), decode) if waiting.ranks and count > len(state.place) else 0
        shelf = state.shelf(model, aside) if aside else None
        while True:
            if self.stop():
                raise Stopped
            alive, reach = state.look()
            rows = len(state.place)
            if waiting and rows - alive >= max(1, REFILL_SHARE * rows):
                self._refill(state, shelf, waiting, out, decode)
                continue
            if not alive:
                break
            if not waiting and alive < ALIVE_SHARE * rows:
                self._compact(state, alive)
            if shelf is not None and waiting:
                reach = max(reach, self._preempt(state, shelf, waiting, out, decode))
            for more in range(1 if state.exchange is not None else self.polled):
                self._step(model, state, out, decode, reach + more)
        given = torch.tensor([len(prompt) for prompt in prompts], device=device)
        out.prefilled = Extent.spans(torch.ones_like(given), given)
        if state.exchange is None:
            out.sampled.copy_(torch.arange(decode.max_tokens, device=device) < out.lengths[:, None])
        out.turns.masked_fill_(torch.arange(decode.max_tokens, device=device) >= out.lengths[:, None], 0)
        given = given.repeat_interleave(samples)
        out.decoded = Extent.spans(given + 1, given + out.lengths[:count] - 1)
        if waiting.forecast is not None:
            out.seen = waiting.forecast.seen(out.lengths)
            out.predictions = int(out.lengths[:count].sum()) if waiting.ranks else 0

    def _enough(self, rows: int, needed: int) -> int:
        """How many of `rows` rows to decode side by side for `needed` samples."""
        return halved(rows, needed, SMALLEST_ROWS) if self._in_sizes else min(rows, needed)

    def _compact(self, state: State, alive: int) -> None:
        """Drop idle rows, all or (where steps are made for few sizes) as many as leave such a size."""
        count = self._enough(len(state.place), alive)
        if count < len(state.place):
            state.narrow(count)

    def _weights(self) -> Decoder:
        """The decoder, or its copy brought up to date: without adapters, which are added to the weights, and under
        autocast with linear layers in autocast's dtype."""
        dtype = autocast_dtype(self.model.embed.weight.device)
        if dtype is None and not is_adapted(self.model):
            return self.model
        if dtype not in self._copies:
            made = self._copies[dtype] = without_adapters(self.model).requires_grad_(False)
            for module in made.modules() if dtype is not None else ():
                names = ("weight",) if isinstance(module, nn.Linear) else getattr(module, "stacks", ())
                for name in names:  # not in place: the head's weight may be the embedding's
                    setattr(module, name, nn.Parameter(getattr(module, name).to(dtype), requires_grad=False))
        made = self._copies[dtype]
        tensors = made.state_dict()
        for name, tensor in folded(self.model):
            tensors[name].copy_(tensor)
        return made.eval()

    def _refill(
        self, state: State, shelf: State | None, waiting: Waiting, out: Completions, decode: DecodeConfig
    ) -> None:
        """Give idle rows the next samples, as many as one chunk of prefilled prompts still has."""
        idle = (~state.alive).nonzero().squeeze(1)
        jobs = waiting.take(len(idle))
        self._place(state, shelf, waiting, idle[: len(jobs)], jobs, out, decode)

    def _preempt(self, state: State, shelf: State, waiting: Waiting, out: Completions, decode: DecodeConfig) -> int:
        """Set samples aside for shorter ones that wait, as many as the shelf has room for. Returns the largest position
        that a running one goes to."""
        rows, free = state.alive.nonzero().squeeze(1), (~shelf.alive).nonzero().squeeze(1)
        running = waiting.known(state.place[rows], state.drawn[rows])
        pairs = waiting.scheduler.displace(running, len(free))
        if not pairs:
            return 0
        row_of = {job.number: row for job, row in zip(running, rows.tolist(), strict=True)}
        left = torch.tensor([row_of[goes.number] for goes, _ in pairs], device=rows.device)
        shelf.put(free[: len(pairs)], state, left)
        state.alive[left] = False
        waiting.shelved.update(zip((goes.number for goes, _ in pairs), free.tolist(), strict=False))
        self._place(state, shelf, waiting, left, [comes for _, comes in pairs], out, decode)
        out.preempted += len(pairs)
        return state.look()[1]

    def _place(
        self,
        state: State,
        shelf: State | None,
        waiting: Waiting,
        rows: Tensor,
        jobs: list[Job],
        out: Completions,
        decode: DecodeConfig,
    ) -> None:
        """Give idle `rows` samples each: they begin, or go on where they were set aside."""
        slots = torch.tensor([waiting.shelved.pop(job.number, -1) for job in jobs], device=rows.device)
        begin, back = slots < 0, slots >= 0
        if shelf is not None and bool(back.any()):
            state.put(rows[back], shelf, slots[back])
            shelf.alive[slots[back]] = False
        if bool(begin.any()):
            place = torch.tensor([job.number for job in jobs], device=rows.device)[begin]
            self._begin(state, rows[begin], waiting.begun(place), out, decode)

    def _begin(self, state: State, rows: Tensor, taken: Taken, out: Completions, decode: DecodeConfig) -> None:
        """Samples begin in idle `rows`."""
        state.cache.put(rows, taken.cache, taken.source)
        state.positions[rows], state.keys[rows], state.place[rows] = taken.lengths - 1, taken.keys, taken.place
        state.drawn[rows], state.alive[rows] = 0, True
        if state.exchange is not None:
            state.begin(rows, decode.max_tokens)
        if out.routing is not None and taken.routing is not None:
            out.routing[taken.place, : taken.routing.shape[1]] = taken.routing
        state.advance(rows, *self._record(state.at(rows), taken.logits, taken.ids, out, decode))
        if state.exchange is not None:
            self._answer(state, rows[state.over[rows]], out, decode)

    def _step(self, model: Decoder, state: State, out: Completions, decode: DecodeConfig, reach: int) -> None:
        """Pass the last token of every row, none at a position beyond `reach`, and draw the next one."""
        slots = reach + 1
        if self._in_sizes:
            parts, unit = (4, SLOT_UNIT) if self._compile else (SLOT_PARTS, SLOT_UNIT // 2)
            slots = min(rounded(slots, rounded(state.cache.length // parts, unit)), state.cache.length)

        def step() -> None:
            self._pass(model, state, out, decode, slots)

        before = None if state.forecast is None else (state.alive.clone(), state.drawn.clone())
        if self._held is not None and self._graphs is not None:
            drawing = (decode.temperature, decode.top_k, decode.top_p)
            talks = state.exchange is not None
            self._graphs.run((len(state.place), slots, drawing, out.routing is not None, talks), step)
        else:
            step()
        if state.forecast is not None and before is not None:
            alive, drawn = before
            state.forecast.go_on(torch.where(alive, state.place, state.forecast.idle), drawn, state.looked)
        if state.exchange is not None and bool(state.over.any()):
            self._answer(state, state.over.nonzero().squeeze(1), out, decode)

    def _pass(self, model: Decoder, state: State, out: Completions, decode: DecodeConfig, slots: int) -> None:
        """A step without a look at what came of it; attends `slots` positions."""
        positions = state.positions * state.alive  # idle rows see slot 0: of what they left none may be within a window
        rows = model.rows(state.tokens[:, None], positions=positions[:, None], cache=state.cache, slots=slots)
        rows.places = state.ids[:, None] if state.guide is not None else None
        routing = None
        if state.forecast is not None:
            rows.look = middle_layer(len(model.blocks))
            logits, ids, routing, looked = self._logits_and_state(
                model, state.tokens[:, None], rows, state.cache, out.routing is not None
            )
            assert looked is not None
            state.looked.copy_(looked)
        elif out.routing is None:
            logits, ids = self._logits(model, state.tokens[:, None], rows, state.cache)
        else:
            logits, ids, routing = self._logits_and_routing(model, state.tokens[:, None], rows, state.cache)
        if out.routing is not None:
            assert routing is not None
            out.routing[state.written(), positions] = routing
        state.advance(None, *self._record(state, logits, ids, out, decode))

    def _record(
        self,
        state: State,
        logits: Tensor,
        ids: Tensor | None,
        out: Completions,
        decode: DecodeConfig,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Draw a token for each row from logits [N, V], and write it down; `ids` [N] int64 are its predicted coupled
        positions. Returns the tokens [N], whether the turn is over [N] bool, and the coupled positions [N]."""
        place, drawn = state.written(), state.drawn.clamp(max=decode.max_tokens - 1)  # beyond it are idle rows alone
        tokens, logprobs = draw(logits, uniforms(state.keys, drawn), decode)
        ended, limit = self.is_over(state.place, tokens, drawn + 1), decode.max_tokens
        if state.exchange is not None:
            given = drawn < state.fed  # [N] bool, where the token is a reply's, which stands there already
            tokens, logprobs = torch.where(given, out.tokens[place, drawn], tokens), logprobs.masked_fill(given, 0.0)
            ended, limit = (ended | state.ends[tokens]) & ~given, state.limit
            out.sampled[place, drawn] = ~given
        out.tokens[place, drawn], out.logprobs[place, drawn] = tokens, logprobs
        out.lengths[place], out.finished[place] = drawn + 1, ended
        if state.guide is not None and out.places is not None:
            ids = state.guide.at(state.place, state.positions + 1) if ids is None else ids
            out.places[place, drawn] = ids
        return tokens, state.alive & (ended | (drawn + 1 == limit)), ids

    def _answer(self, state: State, rows: Tensor, out: Completions, decode: DecodeConfig) -> None:
        """Ask what the samples in `rows`, whose turn is over, are answered; those that are go on."""
        assert state.exchange is not None
        for row in rows.tolist():
            place, end, start = int(state.place[row]), int(state.drawn[row]), int(state.fed[row])
            ended = bool(out.finished[place])
            reply = state.exchange.reply(place, out.tokens[place, start:end].tolist(), ended)
            if reply is None:
                continue
            fed = end + len(reply.tokens)
            if fed >= decode.max_tokens:  # no room for a token of its own
                out.finished[place] = False
                continue
            out.tokens[place, end:fed] = torch.tensor(reply.tokens, device=out.tokens.device)
            out.turns[place, end:] = int(out.turns[place, end - 1]) + 1
            state.fed[row], state.limit[row] = fed, min(fed + (reply.budget or decode.max_tokens), decode.max_tokens)
            state.alive[row] = True

    def is_over(self, place: Tensor, tokens: Tensor, drawn: Tensor) -> Tensor:
        """[N] bool: samples that end with tokens [N] int64, their `drawn`-th [N]; `place` [N] is their output's."""
        return tokens == self.end_id


def _next_logits(model: Decoder, tokens: Tensor, rows: Rows, cache: Cache) -> tuple[Tensor, Tensor | None]:
    """[N, V] after tokens [N, 1]; and [N] int64, the next tokens' coupled positions where the model predicts them."""
    return _next_logits_and_routing(model, tokens, rows, cache, routing=False)[:2]


def _next_logits_and_routing(
    model: Decoder, tokens: Tensor, rows: Rows, cache: Cache, routing: bool = True
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """`_next_logits`, and the experts chosen [N, L, K] int16."""
    return _next_logits_and_state(model, tokens, rows, cache, routing)[:3]


def _next_logits_and_state(
    model: Decoder, tokens: Tensor, rows: Rows, cache: Cache, routing: bool
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """`_next_logits_and_routing`, and the states [N, D] after the layer that is looked at."""
    hidden, aux = model.run(tokens, rows, cache)
    hidden = hidden[:, 0]
    ids = None if model.places is None else model.places.predicted(hidden)
    chosen = chosen_experts(aux)[:, 0] if routing else None
    return model.logits(hidden), ids, chosen, None if aux.looked is None else aux.looked[:, 0]
