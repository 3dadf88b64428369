"""The commands of `hrpose`, one file each; hrpose.py gives them their names."""
