package taxonomy

import "errors"

// Faults returns the faults that an error of a Validate, a Compile or the like
// joins, in order. What is no FieldError has an empty Field.
func Faults(err error) []FieldError {
	if err == nil {
		return nil
	}
	if j, ok := err.(interface{ Unwrap() []error }); ok {
		var all []FieldError
		for _, e := range j.Unwrap() {
			all = append(all, Faults(e)...)
		}
		return all
	}
	var fe *FieldError
	if errors.As(err, &fe) {
		return []FieldError{*fe}
	}
	return []FieldError{{Err: err}}
}

// Under puts a place before the field of each fault: what is wrong with
// "when[0].op" of the fourth rule is wrong with "rules[3].when[0].op". It
// returns nil for nil.
func Under(place string, err error) error {
	var all []error
	for _, f := range Faults(err) {
		all = append(all, &FieldError{Field: place + f.Field, Err: f.Err})
	}
	return errors.Join(all...)
}
