"""Training of the agents: one primitive, SFT, DPO, and adapters."""
