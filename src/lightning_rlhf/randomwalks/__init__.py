"""The random walks of trlx, a published task whose data and metric are computed."""
