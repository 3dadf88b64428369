"""From bytes to people, without HTTP: batcher, runtimes and the pipeline that ties them."""
