"""From bytes to people, without HTTP: detectors, batcher, runtimes and the pipeline that ties them."""
