"""Files and directories: paths on a disk and in a bucket, written whole, locked, replaced, and checked for damage."""
