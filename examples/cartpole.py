"""PPO on CartPole-v1, with all of its mathematics from `lightning_rlhf.ops`.

A pole on a cart replaces text, and plain loops replace Lightning. If the pole stays up, the functions that train
language models have balanced it. Settings and details are those of CleanRL's `ppo.py` (Huang et al., "CleanRL:
High-quality Single-file Implementations of Deep Reinforcement Learning Algorithms", 2022), with one difference: if the
time limit cuts an episode short, the rewards that it would still have earned count too.

    for seed in 1 2 3; do python examples/cartpole.py --seed $seed; done

Shapes: N environments, T steps of a rollout; B rows, R steps of the longest row; M steps of a minibatch.
"""

import argparse
from statistics import fmean
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from tqdm import trange

from lightning_rlhf.ops.advantages import explained_variance, gae
from lightning_rlhf.ops.logprobs import token_entropy, token_logprobs
from lightning_rlhf.ops.losses import PolicyBatch, clipped, ppo_value_loss, weighted_policy_loss
from lightning_rlhf.ops.masked import masked_mean, masked_whiten

NUM_ENVS, NUM_STEPS, PPO_EPOCHS, MINIBATCH_SIZE = 4, 128, 4, 128
LR, ADAM_EPS, MAX_GRAD_NORM = 2.5e-4, 1e-5, 0.5
GAMMA, GAE_LAMBDA = 0.99, 0.95
CLIP_RANGE, VF_COEF, ENT_COEF = 0.2, 0.5, 0.01


class Steps(NamedTuple):
    """One step of each environment (N, …), or all steps of a rollout (N, T, …)."""

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    next_observations: Tensor
    """The states to which the actions led; at the end of an episode its last state, not the first of the next."""
    terminated: Tensor
    """The pole fell."""
    truncated: Tensor
    """The time limit cut the episode short."""


class Minibatch(NamedTuple):
    """Steps in any order, where each step is a row: observations are (M, 1, 4), all other fields (M, 1)."""

    observations: Tensor
    actions: Tensor
    old_logprobs: Tensor
    old_values: Tensor
    advantages: Tensor
    returns: Tensor


class CartPoles:
    """Several environments CartPole-v1; each of them is reset when its episode ends."""

    def __init__(self, count: int, seed: int) -> None:
        """Resets all environments, each with a seed of its own."""
        self.envs: list[gymnasium.Env[Any, Any]] = [gymnasium.make("CartPole-v1") for _ in range(count)]
        starts = [env.reset(seed=seed * count + i)[0] for i, env in enumerate(self.envs)]
        self.observations = torch.tensor(np.stack(starts))  # (N, 4)
        self.totals = torch.zeros(count)  # sums of rewards of the episodes in progress
        self.returns: list[float] = []  # returns of the finished episodes, in the order of their ends

    def step(self, actor: nn.Module) -> Steps:
        """Makes one step in each environment, with actions drawn from the actor."""
        actions = torch.multinomial(actor(self.observations).softmax(-1), 1).squeeze(1)
        outcomes = [env.step(action) for env, action in zip(self.envs, actions.tolist(), strict=True)]
        arrived, rewards, terminated, truncated, _ = zip(*outcomes, strict=True)
        next_observations, ended = torch.tensor(np.stack(arrived)), torch.tensor([terminated, truncated])  # (2, N)
        step = Steps(self.observations, actions, torch.tensor(rewards), next_observations, *ended)
        self.observations = next_observations.clone()
        self.totals += step.rewards
        for i in ended.any(0).nonzero().flatten().tolist():
            self.returns.append(self.totals[i].item())
            self.totals[i] = 0
            self.observations[i] = torch.tensor(self.envs[i].reset()[0])
        return step


def mlp(num_outputs: int, output_gain: float) -> nn.Sequential:
    """A network with two hidden layers of 64 units with tanh, orthogonal weights, and biases of 0."""
    layers = [nn.Linear(4, 64), nn.Linear(64, 64), nn.Linear(64, num_outputs)]
    for layer, gain in zip(layers, (2**0.5, 2**0.5, output_gain), strict=True):
        nn.init.orthogonal_(layer.weight, gain)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])


def estimate(rollout: Steps, values: Tensor, next_values: Tensor) -> tuple[Tensor, Tensor]:
    """Computes advantages and returns of a rollout with the estimator for responses.

    `gae` expects that each row ends in a state of value 0, as a response does. The steps of an environment are
    therefore cut into rows, after the last step of an episode and at the end of the rollout. If the pole fell, a value
    of 0 is right. If it did not, the episode could continue, so what it would still earn, gamma · V(next state), is
    added to the last reward.

    Args:
        rollout: (N, T).
        values: (N, T) of the states in which the actions were taken.
        next_values: (N, T) of the states to which the actions led.

    Returns:
        Both (N · T,), in the order of `flatten()`.
    """
    last = rollout.terminated | rollout.truncated
    last[:, -1] = True
    rewards = rollout.rewards + torch.where(last & ~rollout.terminated, GAMMA * next_values, 0)
    lengths = last.flatten().nonzero().flatten().diff(prepend=torch.tensor([-1])).tolist()
    rewards, values, mask = (
        pad_sequence(steps.flatten().split(lengths), batch_first=True)  # (B, R), padded on the right
        for steps in (rewards, values, torch.ones_like(last))
    )
    advantages, returns = gae(rewards, values, mask, gamma=GAMMA, gae_lambda=GAE_LAMBDA)
    return advantages[mask], returns[mask]


@torch.no_grad()
def collect(envs: CartPoles, actor: nn.Module, critic: nn.Module) -> Minibatch:
    """Plays a rollout, scores it, and returns all of its steps as one large minibatch."""
    steps = [envs.step(actor) for _ in range(NUM_STEPS)]
    rollout = Steps(*(torch.stack(parts, dim=1) for parts in zip(*steps, strict=True)))  # (N, T, …)
    values, next_values = (critic(x).squeeze(-1) for x in (rollout.observations, rollout.next_observations))
    logprobs = token_logprobs(actor(rollout.observations), rollout.actions)
    scored = (x.flatten(0, 1) for x in (rollout.observations, rollout.actions, logprobs, values))
    return Minibatch(*(x.unsqueeze(1) for x in (*scored, *estimate(rollout, values, next_values))))


def ppo_loss(actor: nn.Module, critic: nn.Module, batch: Minibatch) -> Tensor:
    """The sum of policy loss, value loss and entropy bonus of a minibatch."""
    mask = torch.ones_like(batch.actions, dtype=torch.bool)
    weights = 1 / len(mask)  # the mean over steps
    logits, values = actor(batch.observations), critic(batch.observations).squeeze(-1)  # (M, 1, 2), (M, 1)
    logprobs, advantages = token_logprobs(logits, batch.actions), masked_whiten(batch.advantages, mask)
    steps = clipped(PolicyBatch(logprobs, batch.old_logprobs, advantages, mask), clip_range=CLIP_RANGE)
    policy = weighted_policy_loss(steps, mask, weights)
    value = ppo_value_loss(values, batch.old_values, batch.returns, mask, clip_range_value=CLIP_RANGE, weights=weights)
    return policy.loss + VF_COEF * value.loss - ENT_COEF * masked_mean(token_entropy(logits), mask)


def train(seed: int, total_steps: int) -> tuple[nn.Module, list[float]]:
    """Trains an actor; returns it together with the returns of all training episodes."""
    torch.manual_seed(seed)
    envs, actor, critic = CartPoles(NUM_ENVS, seed), mlp(2, output_gain=0.01), mlp(1, output_gain=1.0)
    parameters = [*actor.parameters(), *critic.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=LR, eps=ADAM_EPS)
    num_iterations = total_steps // (NUM_ENVS * NUM_STEPS)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=num_iterations)
    for _ in (bar := trange(num_iterations, desc=f"seed {seed}")):
        rollout = collect(envs, actor, critic)
        for _ in range(PPO_EPOCHS):
            for chosen in torch.randperm(NUM_ENVS * NUM_STEPS).split(MINIBATCH_SIZE):
                optimizer.zero_grad()
                ppo_loss(actor, critic, Minibatch(*(x[chosen] for x in rollout))).backward()
                nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM)
                optimizer.step()
        schedule.step()
        foreseen = explained_variance(rollout.old_values, rollout.returns, torch.ones_like(rollout.returns).bool())
        bar.set_postfix_str(f"return {fmean(envs.returns[-100:]):.0f}, explained variance {foreseen:.2f}")
    return actor, envs.returns


@torch.no_grad()
def evaluate(actor: nn.Module, seed: int, num_episodes: int = 100) -> float:
    """The mean return over episodes of a new environment, with actions drawn as in training."""
    env = CartPoles(1, seed)
    while len(env.returns) < num_episodes:
        env.step(actor)
    return fmean(env.returns)


def main() -> None:
    """Trains an actor and prints for how many steps it keeps the pole up; the maximum is 500."""
    parser = argparse.ArgumentParser(description="PPO on CartPole-v1")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=500_000, help="number of steps of all environments together")
    parser.add_argument("--threads", type=int, default=1, help="torch threads; the networks are too small for more")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    actor, returns = train(args.seed, args.steps)
    print(f"seed {args.seed}: mean return of the last 100 episodes of training {fmean(returns[-100:]):.1f}")
    print(f"seed {args.seed}: mean return of 100 new episodes {evaluate(actor, seed=1000 + args.seed):.1f}")


if __name__ == "__main__":
    main()
