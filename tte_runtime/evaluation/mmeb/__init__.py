"""MMEB-V2 on the user's own copy of its data: VLM2Vec's layout, its instructions, its scoring.

The facts (datasets, folders, columns, prompts, metrics) are those of TIGER-AI-Lab/VLM2Vec at 6e1e1d4 of 2026-01-27:
eval.py, experiments/public/eval/*.yaml, experiments/report_score_v2.py, src/constant/dataset_hf_path.py,
src/data/eval_dataset/*.py, src/utils/eval_utils/metrics.py. Downloads nothing.
"""
