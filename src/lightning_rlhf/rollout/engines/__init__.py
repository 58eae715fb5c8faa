"""Engines that draw responses, behind one door: `engine.RolloutEngine`."""
