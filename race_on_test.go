//go:build race

package cacheaside_test

const raceDetector = true
