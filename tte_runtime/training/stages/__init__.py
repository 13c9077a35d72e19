"""The stages of Think-Then-Embed training on one's own base and data, a file a command of `tte train`."""
