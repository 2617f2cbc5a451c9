"""SFT and DPO on packed token trees: one loop for both."""
