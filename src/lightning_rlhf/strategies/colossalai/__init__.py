"""ColossalAI's ZeRO 1 and 2 and Gemini as a Lightning strategy."""
