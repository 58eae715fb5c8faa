"""The public names, for type checkers and for `lazy_loader`, which imports each when it is first asked for."""

from .data.preference import PreferenceDataModule as PreferenceDataModule
from .data.prompts import PromptDataModule as PromptDataModule
from .data.render import Renderer as Renderer
from .data.sft import SFTDataModule as SFTDataModule
from .hooks import RLHFCallback as RLHFCallback
from .models.causal_lm import load_causal_lm as load_causal_lm
from .models.export import export_model as export_model
from .models.scalar import load_reward_model as load_reward_model
from .models.scalar import load_scalar_model as load_scalar_model
from .models.shared import Shared as Shared
from .models.source import ModelSource as ModelSource
from .modules.dpo import DPOModule as DPOModule
from .modules.optim import Optim as Optim
from .modules.ppo import PPOModule as PPOModule
from .modules.ppo_loss import PPOLoss as PPOLoss
from .modules.reward import RewardModule as RewardModule
from .modules.sft import SFTModule as SFTModule
from .modules.stage_module import StageModule as StageModule
from .report.run_stats import RunStats as RunStats
from .rewards.build import AdapterReward as AdapterReward
from .rewards.build import WeightedSum as WeightedSum
from .rewards.build import load_reward as load_reward
from .rewards.function import TextReward as TextReward
from .rewards.http import HTTPReward as HTTPReward
from .rewards.judge import LLMJudge as LLMJudge
from .rewards.own_net import RewardNet as RewardNet
from .rollout.credit import Credit as Credit
from .rollout.engines.native import NativeEngine as NativeEngine
from .rollout.engines.padded import PaddedEngine as PaddedEngine
from .rollout.sampling import Sampling as Sampling
from .strategies.colossalai.strategy import ColossalAIStrategy as ColossalAIStrategy
from .strategies.deepspeed.strategy import DeepSpeedStrategy as DeepSpeedStrategy
from .strategies.fsdp.fsdp1 import FSDPStrategy as FSDPStrategy
from .strategies.fsdp.fsdp2 import FSDP2Strategy as FSDP2Strategy

__version__: str
