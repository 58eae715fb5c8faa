"""Engines that draw responses. All of them implement the protocol `engine.RolloutEngine`."""
