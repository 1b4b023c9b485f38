// Package lint holds the rules of the code base as tests: who may import whom, that every package says what it is, how
// large files and functions may grow, and what may stand at the top level. There is nothing in it but the tests.
package lint
