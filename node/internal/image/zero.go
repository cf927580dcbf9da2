package image

import "bytes"

// sparseUnit is the grain in which zeros are looked for: the block of every file system that images hold.
const sparseUnit = 4096

var zeros [64 << 10]byte

// isZero compares with memory that is known to be zero, which the runtime does with vector instructions.
func isZero(p []byte) bool {
	for len(p) > len(zeros) {
		if !bytes.Equal(p[:len(zeros)], zeros[:]) {
			return false
		}
		p = p[len(zeros):]
	}
	return bytes.Equal(p, zeros[:len(p)])
}
