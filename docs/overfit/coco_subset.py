"""Picks four COCO images with one large object each: python coco_subset.py COCO_ROOT OUT."""

import json
import sys
from collections import defaultdict
from pathlib import Path

root, out = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
coco = json.loads((root / "annotations/instances_train2017.json").read_text())
objects = defaultdict(list)
for annotation in coco["annotations"]:
    objects[annotation["image_id"]].append(annotation)


def has_one_large_object(image):
    """At least a twentieth of the image, and no crowd."""
    here = objects[image["id"]]
    area = 0.05 * image["height"] * image["width"]
    return len(here) == 1 and here[0]["area"] > area and not here[0]["iscrowd"]


coco["images"] = [image for image in coco["images"] if has_one_large_object(image)][:4]
coco["annotations"] = [objects[image["id"]][0] for image in coco["images"]]
out.mkdir(parents=True, exist_ok=True)
(out / "subset.json").write_text(json.dumps(coco))
if not (out / "train2017").exists():
    (out / "train2017").symlink_to(root / "train2017")
print(f"{len(coco['images'])} images in {out}")
