// What the tests need of the inside.

package doctor

import "cmp"

// WithRoot has the doctor take a directory for the root of the file system, where that tells of containers. The first
// one counts.
func (cfg Config) WithRoot(root string) Config {
	cfg.root = cmp.Or(cfg.root, root)
	return cfg
}
