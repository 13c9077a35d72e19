"""The 78 datasets of MMEB-V2: where VLM2Vec's code finds each, in which group the leaderboard counts it.

Annotations of a dataset lie in DIR/OWNER/NAME, the folder that `datasets.load_dataset("OWNER/NAME")` takes when it is
started in DIR; pictures and frames lie where VLM2Vec's yaml files say, relative to DIR. Knows names; opens no file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Modality = Literal["image", "video", "visdoc", "own"]

IMAGE_REPO = "ziyjiang/MMEB_Test_Instruct"
IMAGE_ROOT = "image-tasks"


@dataclass(frozen=True)
class Dataset:
    """One dataset.

    Attributes:
        name: as the leaderboard has it.
        modality: "own" for one that is not of MMEB-V2 and comes in the layout of its image datasets.
        group: of the leaderboard's table.
        parser: which layout its annotations have.
        repo: folder of its annotations, OWNER/NAME. subset, split: of them.
        root: folder of its pictures or frames.
    """

    name: str
    modality: Modality
    group: str
    parser: str
    repo: str
    subset: str | None
    split: str
    root: str


def own(name: str) -> Dataset:
    """A dataset of the user's in the layout of MMEB-V2's image datasets."""
    return Dataset(name, "own", "own", "image", IMAGE_REPO, name, "test", IMAGE_ROOT)


_IMAGES = {
    "CLS": "ImageNet-1K N24News HatefulMemes VOC2007 SUN397 Place365 ImageNet-A ImageNet-R ObjectNet Country211",
    "QA": "OK-VQA A-OKVQA DocVQA InfographicsVQA ChartQA Visual7W ScienceQA VizWiz GQA TextVQA",
    "RET": "VisDial CIRR VisualNews_t2i VisualNews_i2t MSCOCO_t2i MSCOCO_i2t NIGHTS WebQA FashionIQ Wiki-SS-NQ OVEN "
    "EDIS",
    "VG": "MSCOCO RefCOCO RefCOCO-Matching Visual7W-Pointing",
}

# name: (parser, repo, subset, split, folder of frames under video-tasks/frames)
_VIDEOS: dict[str, dict[str, tuple[str, str, str | None, str, str]]] = {
    "CLS": {
        "K700": ("video_classification", "VLM2Vec/Kinetics-700", None, "test", "video_cls/K700"),
        "SmthSmthV2": ("ssv2", "VLM2Vec/SmthSmthV2", None, "test", "video_cls/SSv2"),
        "HMDB51": ("video_classification", "VLM2Vec/HMDB51", None, "test", "video_cls/HMDB51"),
        "UCF101": ("video_classification", "VLM2Vec/UCF101", None, "test", "video_cls/UCF101"),
        "Breakfast": ("video_classification", "VLM2Vec/Breakfast", None, "test", "video_cls/Breakfast"),
    },
    "QA": {
        "MVBench": ("mvbench", "VLM2Vec/MVBench", None, "train", "video_qa/MVBench"),
        "Video-MME": ("videomme", "VLM2Vec/Video-MME", None, "test", "video_qa/Video-MME"),
        "NExTQA": ("nextqa", "VLM2Vec/NExTQA", "MC", "test", "video_qa/NExTQA"),
        "EgoSchema": ("egoschema", "VLM2Vec/EgoSchema", "Subset", "test", "video_qa/EgoSchema"),
        "ActivityNetQA": ("activitynetqa", "VLM2Vec/ActivityNetQA", None, "test", "video_qa/ActivityNetQA"),
    },
    "RET": {
        "DiDeMo": ("didemo", "VLM2Vec/DiDeMo", None, "test", "video_ret/DiDeMo"),
        "MSR-VTT": ("msrvtt", "VLM2Vec/MSR-VTT", "test_1k", "test", "video_ret/MSR-VTT"),
        "MSVD": ("msvd", "VLM2Vec/MSVD", None, "test", "video_ret/MSVD"),
        "VATEX": ("vatex", "VLM2Vec/VATEX", None, "test", "video_ret/VATEX"),
        "YouCook2": ("youcook2", "lmms-lab/YouCook2", None, "val", "video_ret/YouCook2"),
    },
    "MRET": {
        "QVHighlight": ("moment_retrieval", "VLM2Vec/QVHighlight", None, "test", "video_mret/QVHighlight"),
        "Charades-STA": ("moment_retrieval", "VLM2Vec/Charades-STA", None, "test", "video_mret/Charades_STA"),
        "MomentSeeker": ("momentseeker", "VLM2Vec/MomentSeeker", None, "test", "video_mret/MomentSeeker"),
    },
}

# name: (repo, split, folder of pictures under visdoc-tasks); annotations are BEIR's queries, qrels and corpus
_V1 = "docvqa_test_subsampled infovqa_test_subsampled tabfquad_test_subsampled tatdqa_test shiftproject_test"
_V1 = f"arxivqa_test_subsampled {_V1} " + " ".join(
    f"syntheticDocQA_{topic}_test"
    for topic in ("artificial_intelligence", "energy", "government_reports", "healthcare_industry")
)
_V2 = {
    "esg_reports_human_labeled_v2": "esg_reports_human_labeled_v2",
    "biomedical_lectures_v2_multilingual": "biomedical_lectures_v2",
    "economics_reports_v2_multilingual": "economics_reports_v2",
    "esg_reports_v2_multilingual": "esg_reports_v2",
}
_DOCUMENTS: dict[str, dict[str, tuple[str, str, str]]] = {
    "ViDoRe-V1": {
        name: (f"vidore/{repo}_beir", "test", name)
        for repo in _V1.split()
        for name in ["ViDoRe_" + repo.removesuffix("_subsampled").removesuffix("_test")]
    },
    "ViDoRe-V2": {f"ViDoRe_{name}": (f"vidore/{repo}", "test", name) for name, repo in _V2.items()},
    "VisRAG": {
        f"VisRAG_{name}": (f"openbmb/VisRAG-Ret-Test-{name}", "train", f"VisRAG_{name}")
        for name in ("ArxivQA", "ChartQA", "MP-DocVQA", "SlideVQA", "InfoVQA", "PlotQA")
    },
    "OOD": {
        "ViDoSeek-page": ("VLM2Vec/ViDoSeek-page-fixed", "test", "ViDoSeek-page"),
        "ViDoSeek-doc": ("VLM2Vec/ViDoSeek", "test", "ViDoSeek-doc"),
        "MMLongBench-page": ("VLM2Vec/MMLongBench-page-fixed", "test", "MMLongBench-page"),
        "MMLongBench-doc": ("VLM2Vec/MMLongBench-doc", "test", "MMLongBench-doc"),
    },
}


def _all() -> list[Dataset]:
    found = [
        Dataset(name, "image", group, "image", IMAGE_REPO, name, "test", IMAGE_ROOT)
        for group, names in _IMAGES.items()
        for name in names.split()
    ]
    found += [
        Dataset(name, "video", group, parser, repo, subset, split, f"video-tasks/frames/{folder}")
        for group, entries in _VIDEOS.items()
        for name, (parser, repo, subset, split, folder) in entries.items()
    ]
    found += [
        Dataset(
            name,
            "visdoc",
            group,
            "visrag" if group == "VisRAG" else "vidore",
            repo,
            None,
            split,
            f"visdoc-tasks/{folder}",
        )
        for group, documents in _DOCUMENTS.items()
        for name, (repo, split, folder) in documents.items()
    ]
    return found


DATASETS = {dataset.name: dataset for dataset in _all()}
