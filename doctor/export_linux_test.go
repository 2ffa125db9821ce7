package doctor

import "context"

// ReadRules reads the firewall's rules with room for so many bytes, and returns what it does not see of them.
func ReadRules(ctx context.Context, room int) (partial string, err error) {
	r := newRuleset(nil, room)
	err = r.readAll(ctx)
	return r.partial, err
}
