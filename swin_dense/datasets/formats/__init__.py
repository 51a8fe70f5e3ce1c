"""Data sets as people have them: YOLO, Pascal VOC, COCO in many layouts, folders of label maps."""
