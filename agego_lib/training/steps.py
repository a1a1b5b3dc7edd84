"""One training step, and how far a run is: what `training.fit` counts, logs, keeps in a checkpoint and goes on from."""

import time

import torch

from agego_lib.training.checkpoints import TrainingError, model_state, random_states, set_random_states
from agego_lib.training.distributed import gather, share_step


def take_step(fabric, objective, run, stepper, batch, grad_clip, flags):
    """One step -> (None, or what kept it from being taken; values, and sums of `flags`, over all processes)."""
    buffers = [b for module in objective.modules() if module.training for b in module.buffers(recurse=False)]
    kept = [buffer.clone() for buffer in buffers]
    loss, values = run(batch)
    bad, problem = not torch.isfinite(loss), None
    if fabric.world_size > 1:
        terms = objective.terms(batch) if hasattr(objective, "terms") else len(next(iter(_tensors(batch))))
        loss, values, (bad, *flags) = share_step(loss, values, terms, [bad, *flags], fabric)
    if bad:
        problem = f"loss {float(values['loss'])}"
    else:
        fabric.backward(loss)
        if grad_clip:
            norm = fabric.clip_gradients(run, stepper, max_norm=grad_clip, error_if_nonfinite=False)
        else:
            norm = torch.nn.utils.get_total_norm(p.grad for p in objective.parameters() if p.grad is not None)
        scaler = getattr(fabric.strategy.precision, "scaler", None)
        if not torch.isfinite(norm):
            # A scale above 1 is for overflow, and falls with each; below it the gradient itself is at fault.
            problem = None if scaler and scaler.get_scale() >= 1 else f"gradient of norm {float(norm)}"
        if problem is None or scaler:
            # The scaler, which must hear of each gradient, takes no step with one that is not finite.
            stepper.step()
    stepper.zero_grad(set_to_none=True)
    if problem:
        for buffer, value in zip(buffers, kept, strict=True):
            buffer.copy_(value)
    return problem, values, flags


def _tensors(batch):
    return batch.values() if isinstance(batch, dict) else batch


class RunState:
    """How far a run is, and all that a checkpoint of it must hold."""

    def __init__(self, fabric, objective, adam, schedule, steps, label, log, checkpoint, identity, progress):
        self.fabric, self.objective, self.adam, self.schedule = fabric, objective, adam, schedule
        self.steps, self.label, self.log, self.checkpoint, self.identity = steps, label, log, checkpoint, identity
        self.progress, self.step, self.history, self.since, self.faults = progress, 0, [], {}, []
        self.saved = time.monotonic()

    def due(self):
        """Whether it is time for a checkpoint; the first process decides."""
        waited = (time.monotonic() - self.saved) / 60
        return bool(self.checkpoint and self.fabric.is_global_zero and waited >= self.checkpoint.every_minutes)

    def count(self, values, problem, items):
        """One more step: its values for the log, or the `problem` that made it be skipped. items: gives its items."""
        if problem:
            self.faults.append({"step": self.step, "problem": problem, "items": items()})
            if len(self.faults) > (self.checkpoint.max_faults if self.checkpoint else 0):
                self._give_up()
        else:
            for name, value in values.items():
                self.since.setdefault(name, []).append(float(value))
        self.step += 1
        self.progress.update()
        if (self.step % max(1, self.steps // 100) == 0 or self.step == self.steps) and self.since:
            means = {name: sum(v) / len(v) for name, v in self.since.items()}
            shown = {n: f"{v:.4g}" for n, v in means.items() if n in ("loss", "accuracy", "mpjpe_mm")}
            self.progress.set_postfix(shown | {"skipped": len(self.faults)} if self.faults else shown)
            self.history.append([self.step, means])
            if self.log is not None and self.fabric.is_global_zero:
                self.log(self.step, means)
            self.since = {}

    def _give_up(self):
        last = self.faults[-1]
        places = {", ".join(f"{key} {value}" for key, value in item.items()) for item in last["items"][:3]}
        kept = ""
        if self.checkpoint and self.fabric.is_global_zero:
            kept = f"; all are named in {self.checkpoint.write_faults(self.faults)}"
        raise TrainingError(
            f"{self.label}: {last['problem']} at step {last['step']}, the {len(self.faults)}. step so (of its "
            f"{len(last['items'])} items: {'; '.join(sorted(places))}{kept}); look at these items, lower the learning "
            "rate or the precision's risk"
        )

    def save(self):
        """Write the checkpoint; of a run that has ended, only what its end gave. Every process must call it."""
        if not self.checkpoint:
            return
        random = gather(random_states(self.fabric.device), self.fabric)
        self.saved = time.monotonic()
        if self.fabric.is_global_zero:
            state = {"step": self.step, "random": random, "history": self.history, "since": self.since}
            state |= {"faults": self.faults, "model": model_state(self.objective)}
            if self.step < self.steps:
                state |= {"optimiser": self.adam.state_dict(), "schedule": self.schedule.state_dict()}
                state["precision"] = self.fabric.strategy.precision.state_dict()
            self.checkpoint.write(state, self.identity)

    def restore(self):
        """Go on from the checkpoint, if there is one; what was logged until then is told to the log again."""
        state = None
        if self.checkpoint and self.fabric.is_global_zero:
            try:
                state = self.checkpoint.read(self.identity)
            except TrainingError as error:
                state = error
        # All processes go on from the first one's file, or stop with its error.
        state = self.fabric.broadcast(state)
        if isinstance(state, TrainingError):
            raise state
        if state is None:
            return
        self.step, self.history, self.since, self.faults = (state[k] for k in ("step", "history", "since", "faults"))
        self.objective.load_state_dict(state["model"], strict=False)
        if self.step < self.steps:
            self.adam.load_state_dict(state["optimiser"])
            self.schedule.load_state_dict(state["schedule"])
            self.fabric.strategy.precision.load_state_dict(state["precision"])
        set_random_states(state["random"][self.fabric.global_rank], self.fabric.device)
        self.progress.update(self.step)
        if self.fabric.is_global_zero:
            print(f"{self.label}: goes on after step {self.step} of {self.steps}")
            for entry in self.history if self.log is not None else ():
                self.log(*entry)
