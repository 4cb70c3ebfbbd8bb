package main

// workerVariable is set in the environment of the processes that a measure over several processes starts;
// it says which work they are for.
const workerVariable = "CACHEASIDE_BENCHMARKS_WORKER"

func runWorker(string) int { return 2 }
