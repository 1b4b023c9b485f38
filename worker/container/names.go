package container

import (
	"math/rand/v2"
	"strings"
)

// Names are made up of an adjective and the surname of somebody who has done something for science or computing.
var (
	adjectives = strings.Fields(`able agile airy alert amber ample apt ardent artful astute avid aware balmy bold brave breezy
		bright brisk broad busy calm candid canny careful casual cheery civil clear clever comely composed cool cordial cosy
		crafty crisp curious dapper daring deft devoted direct dreamy driven dutiful eager earnest easy elated elegant epic
		even exact fair famous fancy fearless fervent festive fine firm fleet fluent fond frank free fresh frosty gallant
		genial gentle gifted glad gleeful golden grand grateful handy happy hardy hearty helpful heroic honest hopeful humble
		ideal inventive jaunty jolly jovial joyful keen kind lasting lenient light likeable limber lively loyal lucid lucky
		lyrical magic mellow merry mighty mindful mirthful modest musing neat nimble noble novel open orderly patient peaceful
		placid playful pleasant plucky poised polite prime proud prudent quaint quick quiet radiant rapid rational ready regal
		rested robust rosy rustic sage sane serene sharp shiny simple sincere sleek smart snug sober solid sound spirited
		spry stable staunch steady stoic sturdy suave sunny sure swift tactful tender thankful thorough thrifty tidy timely
		tranquil trim true trusty upbeat valiant vibrant vigilant vivid warm wary witty wise wry youthful zany zealous zesty`)
	surnames = strings.Fields(`abel agnesi alhazen ampere archimedes avogadro babbage backus banneker bardeen bassi beaufort
		becquerel bell bernoulli bessemer bohr boltzmann boole born bose boyle brahe brahmagupta brattain braun brown brunel
		cannon carson cauchy cavendish celsius chandra chebyshev clarke colden copernicus coulomb crick curie cuvier dalton
		darwin davy descartes dijkstra diophantus dirac doppler easley eckert eddington edison ehrlich einstein elion
		engelbart eratosthenes erdos euclid euler faraday fermat fermi fibonacci fleming floyd fourier franklin fresnel
		galileo galois galvani gauss germain gibbs godel goeppert goldberg goodall gutenberg haber hadamard halley hamilton
		hamming harvey hawking heaviside heisenberg helmholtz henry herschel hertz hilbert hippocrates hodgkin hooke hopper
		hubble huffman humboldt huygens hypatia jacobi jenner johnson joliot joule kapitza kepler kilby knuth kolmogorov
		kovalevsky lagrange lamarr lamport landau laplace lavoisier leakey leavitt lehmer leibniz linnaeus lorentz lovelace
		lumiere mach marconi maxwell mayer mccarthy mcclintock meitner mendel mendeleev mersenne minkowski mirzakhani morse
		napier nash naur newton nightingale nobel noether noyce ohm oppenheimer ostrom pascal pasteur pauli payne perlman
		planck poincare poisson ptolemy pythagoras raman ramanujan riemann ritchie roentgen rubin rutherford sagan salk
		sanger schrodinger shannon shockley snyder sommerville stallings stokes swartz swirles tesla thompson torricelli
		turing tyson varahamihira vaughan venn visvesvaraya volta wallace watt weierstrass wiener wiles wilkes wilson wing
		wirth wozniak wright wu yalow yonath young zhukovsky zuse`)
)

// newNameLocked makes up a name that no container has.
func (m *Manager) newNameLocked(id string) string {
	for range 6 {
		name := adjectives[rand.IntN(len(adjectives))] + "_" + surnames[rand.IntN(len(surnames))]
		if m.byName[name] == nil {
			return name
		}
	}
	return short(id)
}
