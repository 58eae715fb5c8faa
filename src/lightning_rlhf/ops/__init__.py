"""The mathematics: pure functions of tensors, which import nothing but torch.

Shapes: B rows, P prompt tokens, R response tokens, T = P + R, V vocabulary. Masks are True where a token counts.
"""
