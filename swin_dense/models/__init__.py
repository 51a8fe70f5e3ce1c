"""Parts of detectors that mmdet lacks; the registry imports a folder when it needs one."""
