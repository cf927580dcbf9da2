// Package image makes, reads and writes disk images: it builds the golden Debian image, tells what a stored image holds,
// streams one onto a disk, and takes the kernel out of one for the network-boot environment.
//
// It refuses to believe anything but content: a format is told by magic bytes and never by a file's name, a disk is made
// bootable only after the digest over the whole stored image matched, and an image that ends early is an error everywhere.
// It does not fetch (callers bring a reader), does not choose a disk, does not mount what it wrote, and knows nothing of
// machines, segments or the swarm.
//
// It may be imported by node/internal/live, node/internal/agent and the commands.
package image
