"""Who writes a trace where the embedder does not: another checkpoint, or a chat endpoint. They know no vectors."""
