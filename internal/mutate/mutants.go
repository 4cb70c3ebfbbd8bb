package main

import "slices"

// mutants returns all there are.
func mutants() []mutant {
	return slices.Concat(flightMutants, callerMutants, writeMutants, valueMutants, lifeMutants, redisMutants, policyMutants,
		historyMutants, leaseMutants, tagMutants, feedMutants, busMutants, changeMutants, settleMutants, sourceMutants, postgresMutants, keyMutants)
}
