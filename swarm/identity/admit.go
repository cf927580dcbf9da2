package identity

import (
	"errors"
	"fmt"
	"io"
	"time"
)

// AdmitRequest is what a machine that installs itself sends on ProtoJoin for a certificate of RoleInstall. The ticket is shown,
// not used up: the installed machine redeems it.
type AdmitRequest struct {
	Ticket Ticket
	CSR    []byte // PEM, from Identity.CSR
}

// AdmitResponse lets the machine exchange artifacts with those around it, for an hour. Identity.Enroll checks Certificate and
// CA against the pin.
type AdmitResponse struct {
	Certificate []byte    // PEM
	CA          []byte    // PEM
	Time        time.Time // the answering node's clock, for machines that have none
}

type wireAdmitRequest struct {
	Ticket string `json:"ticket"`
	CSR    string `json:"csr"`
}

type wireAdmitResponse struct {
	Certificate string    `json:"certificate"`
	CA          string    `json:"ca"`
	Time        time.Time `json:"time"`
}

// Encode writes the request with the ticket's secret in it, as JSON of at most MaxRedeemRequest bytes.
func (r AdmitRequest) Encode() ([]byte, error) {
	data, err := encodeBounded(wireAdmitRequest{Ticket: r.Ticket.Reveal(), CSR: string(r.CSR)}, MaxRedeemRequest)
	if err != nil {
		return nil, fmt.Errorf("encode admission request: %w", err)
	}
	return data, nil
}

// DecodeAdmitRequest reads one request from a stranger, as DecodeRedeemRequest does. No error quotes the ticket.
func DecodeAdmitRequest(r io.Reader) (AdmitRequest, error) {
	var w wireAdmitRequest
	if err := decodeBounded(r, MaxRedeemRequest, &w); err != nil {
		return AdmitRequest{}, fmt.Errorf("admission request: %w", err)
	}
	ticket, err := ParseTicket(w.Ticket)
	if err != nil {
		return AdmitRequest{}, fmt.Errorf("admission request: %w", err)
	}
	if _, err := parseCSR([]byte(w.CSR)); err != nil {
		return AdmitRequest{}, fmt.Errorf("admission request: %w", err)
	}
	return AdmitRequest{Ticket: ticket, CSR: []byte(w.CSR)}, nil
}

// Encode writes the response as JSON of at most MaxRedeemResponse bytes.
func (r AdmitResponse) Encode() ([]byte, error) {
	data, err := encodeBounded(wireAdmitResponse{Certificate: string(r.Certificate), CA: string(r.CA), Time: r.Time.UTC()}, MaxRedeemResponse)
	if err != nil {
		return nil, fmt.Errorf("encode admission: %w", err)
	}
	return data, nil
}

// DecodeAdmitResponse reads one response, as DecodeRedeemResponse does.
func DecodeAdmitResponse(r io.Reader) (AdmitResponse, error) {
	var w wireAdmitResponse
	if err := decodeBounded(r, MaxRedeemResponse, &w); err != nil {
		return AdmitResponse{}, fmt.Errorf("admission: %w", err)
	}
	for _, c := range []string{w.Certificate, w.CA} {
		if _, err := parseCert([]byte(c)); err != nil {
			return AdmitResponse{}, fmt.Errorf("admission: %w", err)
		}
	}
	if w.Time.IsZero() {
		return AdmitResponse{}, errors.New("admission: no time")
	}
	return AdmitResponse{Certificate: []byte(w.Certificate), CA: []byte(w.CA), Time: w.Time}, nil
}
